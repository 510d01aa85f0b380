#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Serves a moving test picture as dual-stream H.264 to a WHEP player.
#
# Start whep-receiver.sh too. Expected: it shows the picture within a second or
# two; players may come and go.
#
# Parameters by environment:
#   PORT     of its HTTP server, TCP           (9090)
#   BITRATE  of both streams together, bit/s   (1500000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
PORT=${PORT:-9090}
BITRATE=${BITRATE:-1500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualwebrtcsink signalling=whep-server signaller::host-addr="http://0.0.0.0:$PORT" \
        encoder::bitrate="$BITRATE" encoder::refresh-interval=2000
