#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as dual-stream H.264 over WebRTC (ICE, DTLS-SRTP),
# with a signalling server inside the sender, so that nothing else is needed.
#
# Start webrtc-receiver.sh too. Expected: it shows the picture within a second
# or two, without a pause afterwards. This goes on until it is interrupted;
# receivers may come and go.
#
# Parameters by environment:
#   PORT     of the signalling server, TCP     (8443)
#   BITRATE  of both streams together, bit/s   (1500000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
PORT=${PORT:-8443}
BITRATE=${BITRATE:-1500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualwebrtcsink run-signalling-server=true signalling-server-port="$PORT" \
        encoder::bitrate="$BITRATE" encoder::refresh-interval=2000
