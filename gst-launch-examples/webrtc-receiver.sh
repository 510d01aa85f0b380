#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives over WebRTC what webrtc-sender.sh sends.
#
# Expected: within a second or two, a window with a ball that moves without a
# pause (on Debian the window needs the package gstreamer1.0-x). It ends when
# the sender ends.
#
# Parameters by environment:
#   HOST     of the signalling server          (127.0.0.1)
#   PORT     of the signalling server, TCP     (8443)
#   SINK     elements that show raw video      (autovideosink)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-8443}
SINK=${SINK:-autovideosink}

# shellcheck disable=SC2086
exec gst-launch-1.0 dualwebrtcsrc signaller::uri="ws://$HOST:$PORT" ! videoconvert ! $SINK
