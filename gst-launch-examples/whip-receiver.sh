#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# A WHIP server that shows what one sender at a time sends to it.
#
# Start whip-sender.sh too, or any other WHIP client that sends H.264. Expected:
# a window with a ball that moves without a pause (on Debian the window needs
# the package gstreamer1.0-x). It goes on when the sender has ended.
#
# Parameters by environment:
#   PORT     of its HTTP server, TCP           (8080)
#   SINK     elements that show raw video      (autovideosink)
set -eu
PORT=${PORT:-8080}
SINK=${SINK:-autovideosink}

# shellcheck disable=SC2086
exec gst-launch-1.0 dualwebrtcsrc eos-on-end=false signalling=whip-server \
        signaller::host-addr="http://0.0.0.0:$PORT" \
    ! videoconvert ! $SINK
