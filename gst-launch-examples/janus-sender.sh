#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Publishes a moving test picture in a video room of Janus, an SFU, for any
# number of viewers.
#
# Janus must run with its WebSockets transport and have the room (Debian's
# package janus has room 1234 in /etc/janus; `videocodec = "h264"` must be added
# to it). Expected: a viewer of the room, such as Janus' demo page, shows the
# ball, whenever it comes.
#
# Parameters by environment:
#   PORT     of Janus' WebSockets on this machine   (8188)
#   ENDPOINT URL of Janus' WebSockets               (ws://127.0.0.1:$PORT)
#   ROOM     number of the video room               (1234)
#   BITRATE  in bit/s                               (1500000)
#   SOURCE   elements that give raw video           (a live test picture, 720p30)
set -eu
PORT=${PORT:-8188}
ENDPOINT=${ENDPOINT:-ws://127.0.0.1:$PORT}
ROOM=${ROOM:-1234}
BITRATE=${BITRATE:-1500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualwebrtcsink signalling=janus-videoroom signaller::janus-endpoint="$ENDPOINT" \
        signaller::room-id="$ROOM" encoder::bitrate="$BITRATE"
