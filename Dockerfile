# SPDX-License-Identifier: MPL-2.0
# gst-dualstream on Debian 12. Not run by this project's checks: it is written
# for others, after what ci/install-deps.sh and ci/make-deb.sh do, which are.
#
#   docker build -t gst-dualstream .
#   docker run --rm gst-dualstream                        (the doctor)
#   docker run --rm --network host gst-dualstream gst-launch-1.0 \
#       videotestsrc is-live=true ! dualwebrtcsink run-signalling-server=true
#
# ICE needs the host's network, or a TURN server (property turn-servers).
FROM rust:1.95-bookworm AS build
COPY . /src
WORKDIR /src
RUN ci/install-deps.sh && ci/make-deb.sh /deb

FROM debian:bookworm-slim
COPY --from=build /deb/*.deb /tmp/
RUN apt-get update \
    && apt-get install -y --no-install-recommends /tmp/*.deb \
        gstreamer1.0-tools gstreamer1.0-plugins-ugly gstreamer1.0-libav \
    && rm -rf /tmp/*.deb /var/lib/apt/lists/*
CMD ["dualstream-doctor"]
