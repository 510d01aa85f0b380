#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Installs what building and testing need and is not there yet; says nothing
# when all of it is. Debian and Ubuntu by apt, as root or with sudo; on other
# systems it lists what to install.
#
#   ci/install-deps.sh         to build and test
#   ci/install-deps.sh demo    to build, and the link emulator of ./demo
#   ci/install-deps.sh check   as without a word, and Chromium, Janus, aiortc and coturn for tests of ./check
#   ci/install-deps.sh deny    as without a word, and cargo-deny, for licences (some minutes to build)
set -eu

RUST_MINIMUM=1.95
NEXTEST_VERSION=0.9.143
RATTAN_VERSION=0.1.1
DENY_VERSION=0.20.2

PACKAGES="
build-essential
pkg-config
python3
meson
ninja-build
libgstreamer1.0-dev
libgstreamer-plugins-base1.0-dev
libgstreamer-plugins-bad1.0-dev
gstreamer1.0-tools
gstreamer1.0-plugins-base
gstreamer1.0-plugins-good
gstreamer1.0-plugins-bad
gstreamer1.0-plugins-ugly
gstreamer1.0-libav
gstreamer1.0-nice
iproute2
iputils-ping
"
# The same by what they bring, for systems without dpkg.
PROGRAMS="cc ping pkg-config python3 meson ninja gst-inspect-1.0"
LIBRARIES="gstreamer-1.0 gstreamer-check-1.0 gstreamer-app-1.0 gstreamer-video-1.0 gstreamer-rtp-1.0 gstreamer-sdp-1.0 gstreamer-webrtc-1.0"
ELEMENTS="videotestsrc appsink rtph264pay rtpbin webrtcbin dtlssrtpenc nicesrc x264enc openh264enc opusenc avenc_aac srtsink mpegtsmux avdec_h264 openh264dec h264parse qtdemux mp4mux decodebin"

say() { echo "install-deps: $*" >&2; }
fail() { say "$*"; exit 1; }

case ${1-} in
    '' | demo | check | deny) ;;
    *) fail "unknown argument '$1'; there are 'demo', 'check' and 'deny'" ;;
esac

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root or sudo is needed for: $*"
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
            --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >&2
}

# What only some tests need; no error if it cannot be had.
install_more() {
    command -v apt-get >/dev/null || return
    say "installing $*"
    apt_install "$@"
}

# Rust comes from rustup: distributions are often behind. Its folder may not be
# in this shell's PATH yet, nor what is built below. Asked before anything is
# installed, so that nobody waits for packages first.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if ! command -v cargo >/dev/null || ! rustc=$(rustc --version); then
    say "cargo is missing; Rust $RUST_MINIMUM or newer is needed. Please install it and start again:"
    # Status 0 says nothing: other packages may name it.
    if apt-cache show rustup 2>/dev/null | grep -q .; then
        say "  apt-get install rustup (as root), then rustup default stable"
    else
        say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
        command -v curl >/dev/null || say "  (curl and ca-certificates are packages of these names)"
    fi
    exit 1
fi
rust=$(echo "$rustc" | cut -d' ' -f2)
[ "$(printf '%s\n' "$RUST_MINIMUM" "$rust" | sort -V | head -n1)" = "$RUST_MINIMUM" ] ||
    fail "Rust $rust is too old, $RUST_MINIMUM is needed: rustup update"

installed() {
    # shellcheck disable=SC2016
    dpkg-query -W -f='${binary:Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
        sed -n 's/^\([^: ]*\)\(:[^ ]*\)\{0,1\} installed$/\1/p'
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    have=$(installed $PACKAGES || true)
    missing=
    for package in $PACKAGES; do
        printf '%s\n' "$have" | grep -qxF "$package" || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        say "installing$missing"
        # shellcheck disable=SC2086
        apt_install $missing
    fi
else
    missing=
    for program in $PROGRAMS; do
        command -v "$program" >/dev/null || missing="$missing $program"
    done
    for library in $LIBRARIES; do
        pkg-config --exists "$library" 2>/dev/null || missing="$missing $library"
    done
    for element in $ELEMENTS; do
        gst-inspect-1.0 "$element" >/dev/null 2>&1 || missing="$missing $element"
    done
    if [ -n "$missing" ]; then
        say "this is no Debian or Ubuntu; please install by hand what brings:$missing"
        say "that is: a C compiler, pkg-config, Python 3.11, meson, ninja, GStreamer >= 1.22 with development files,"
        say "its plugins base, good, bad, ugly (x264) and libav, and libnice's GStreamer plugin"
        exit 1
    fi
fi

pkg-config --atleast-version=1.22 gstreamer-1.0 ||
    fail "GStreamer $(pkg-config --modversion gstreamer-1.0) is too old, 1.22 is needed"

# What one more program brings into cargo's folder is built outside the tree,
# so that it shares no target folder with it. Without debugging information, of
# which rattan's profile wants all: 150 MB, and much of the time.
cargo_install() {
    say "building $1 $2 (a few minutes)"
    (cd / && env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_DEBUG=false \
        cargo install --quiet --locked --version "$2" "$1" >&2)
}

# The demo has no tests to run.
[ "${1-}" = demo ] || cargo nextest --version >/dev/null 2>&1 ||
    cargo_install cargo-nextest "$NEXTEST_VERSION"

# Licences. To build it takes some minutes, so it is not part of `check`, whose
# step is skipped where it is missing.
if [ "${1-}" = deny ] && ! cargo deny --version >/dev/null 2>&1; then
    cargo_install cargo-deny "$DENY_VERSION"
fi

# The tests with it say so and pass where it is missing, so it is no error if it
# cannot be had: Ubuntu's package is only a pointer to a snap.
if [ "${1-}" = check ] && ! command -v chromium >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
        install_more chromium ||
            say "chromium could not be installed: tests with it are skipped"
    else
        say "chromium is not installed: tests with it are skipped"
    fi
fi

# The same, for the programs in Python of docs/embedding.md.
if [ "${1-}" = check ] && command -v dpkg-query >/dev/null; then
    bindings="python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0"
    # shellcheck disable=SC2086
    [ "$(installed $bindings | wc -l)" = 3 ] || install_more $bindings || say "they are not checked"
fi

# The same: wheels of pinned versions in a folder of their own.
if [ "${1-}" = check ]; then
    wheels=$(dirname "$0")/../tools/aiortc/requirements.txt
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/gst-dualstream/aiortc
    if ! cmp -s "$wheels" "$venv/requirements.txt"; then
        say "installing aiortc into $venv"
        rm -rf "$venv"
        if { python3 -m venv "$venv" 2>/dev/null || { install_more python3-venv && python3 -m venv "$venv"; }; } &&
            "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$wheels" >&2; then
            cp "$wheels" "$venv/requirements.txt"
        else
            rm -rf "$venv"
            say "aiortc could not be installed: tests with it are skipped"
        fi
    fi
fi

# The same for coturn, a STUN and TURN server, and Janus, an SFU. Their programs
# are wanted, not servers that run from now on.
without_service() {
    command -v systemctl >/dev/null || return 0
    now=
    [ -d /run/systemd/system ] && now=--now
    as_root systemctl disable --quiet $now "$1" >&2 ||
        say "the service $1 was installed and could not be disabled"
}
if [ "${1-}" = check ]; then
    command -v turnserver >/dev/null || { install_more coturn && without_service coturn; } ||
        say "coturn could not be installed: tests with it are skipped"
    command -v janus >/dev/null || { install_more janus && without_service janus; } ||
        say "janus could not be installed: tests with it are skipped"
fi

# Without it the demo goes over loopback, and says so.
if [ "${1-}" = demo ] && ! command -v rattan >/dev/null; then
    cargo_install rattan "$RATTAN_VERSION" || say "rattan could not be built: no emulated link"
fi
