#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as dual-stream H.264 to a WHIP server.
#
# Expected: whip-receiver.sh shows the picture within a second or two. While the
# server is not there, this one tries on for 20 s.
#
# Parameters by environment:
#   PORT     of the server on this machine     (8080)
#   ENDPOINT URL of the WHIP endpoint          (http://127.0.0.1:$PORT/whip/endpoint)
#   TOKEN    to be let in by                   (none)
#   BITRATE  of both streams together, bit/s   (1500000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
PORT=${PORT:-8080}
ENDPOINT=${ENDPOINT:-http://127.0.0.1:$PORT/whip/endpoint}
BITRATE=${BITRATE:-1500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# Those of the signaller come after `signalling`, which makes it.
# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualwebrtcsink signalling=whip-client signaller::whip-endpoint="$ENDPOINT" \
        ${TOKEN:+signaller::auth-token="$TOKEN"} \
        encoder::bitrate="$BITRATE" encoder::refresh-interval=2000
