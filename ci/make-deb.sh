#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Makes a Debian package of the plugins, dualstream-doctor and the examples, by
# what `meson install` installs. Prints its name. Nothing is built that
# ./check or `meson` has built.
#
#   ci/make-deb.sh <folder for it>
#
# VERSION=1.2.3~rc1 gives it another version than the workspace has.
set -eu -o pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
NAME=gstreamer1.0-dualstream

for program in meson ninja dpkg-deb dpkg-shlibdeps strip; do
    command -v "$program" >/dev/null || { echo "make-deb: $program is missing" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/stage

{
    meson setup --prefix=/usr --buildtype=release "$work/build"
    DESTDIR=$stage ninja -C "$work/build" install
} >"$out/make-deb.log" 2>&1 || { cat "$out/make-deb.log" >&2; exit 1; }

version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
architecture=$(dpkg --print-architecture)
plugins=$(pkg-config --variable=pluginsdir gstreamer-1.0)
mapfile -t binaries < <(find "$stage$plugins" "$stage/usr/bin" -type f)
strip --strip-unneeded "${binaries[@]}"
chmod 644 "$stage$plugins"/*.so

docs=$stage/usr/share/doc/$NAME
mkdir -p "$docs"
cp README.md "$docs"
cp -r gst-launch-examples "$docs/examples"
{
    echo "gst-dualstream"
    echo "Licence: MPL-2.0, https://www.mozilla.org/MPL/2.0/"
    echo
    ci/third-party.py $(sed -n "s/^  'gst.*': '\(gst-plugin-.*\)',/\1/p" meson.build) dualstream-doctor
} | gzip -9n >"$docs/copyright-third-party.gz"
cp LICENSE "$docs/copyright"

# What the libraries are linked to; the rest is made by name, at run time.
mkdir "$work/debian"
printf 'Source: gst-dualstream\n\nPackage: %s\nArchitecture: any\n' "$NAME" >"$work/debian/control"
linked=$(cd "$work" && dpkg-shlibdeps -O "${binaries[@]}" 2>>"$out/make-deb.log" | sed -n 's/^shlibs:Depends=//p')
[ -n "$linked" ] || { echo "make-deb: no dependencies found, see $out/make-deb.log" >&2; exit 1; }

mkdir "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: $NAME
Version: $version
Architecture: $architecture
Maintainer: gst-dualstream <gst-dualstream@localhost>
Installed-Size: $(du -ks --exclude=DEBIAN "$stage" | cut -f1)
Depends: $linked, gstreamer1.0-plugins-base (>= 1.22), gstreamer1.0-plugins-good (>= 1.22), gstreamer1.0-plugins-bad (>= 1.22), gstreamer1.0-nice
Recommends: gstreamer1.0-plugins-ugly, gstreamer1.0-libav
Suggests: gstreamer1.0-tools, gstreamer1.0-x
Section: libs
Priority: optional
Description: H.264 over WebRTC and RTP, fast and unbroken on bad networks
 GStreamer plugins: dual-stream H.264 encoder and decoder, WebRTC sender and
 receiver, bandwidth estimator, pacer, FlexFEC and an adaptive jitter buffer;
 and dualstream-doctor, which tells what works on this machine.
CONTROL
(cd "$stage" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
find "$stage" -type d -exec chmod 755 {} +
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
package=$out/${NAME}_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$stage" "$package" >>"$out/make-deb.log"
echo "$package"
