#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as dual-stream H.264 to a browser; page and
# signalling server are inside the sender, so that nothing else is needed.
#
# Open http://127.0.0.1:8080/ in Chromium and press Start. Expected: a ball that
# moves without a pause, "dual stream" below it, and plots whose count of
# switches goes up each two seconds. This goes on until it is interrupted.
#
# Parameters by environment:
#   WEB_PORT  of the page, TCP                          (8080)
#   PORT      of the signalling server, TCP             (8443)
#   LISTEN    address of both; 0.0.0.0 lets others in   (127.0.0.1)
#   BITRATE   of both streams together, bit/s           (2500000)
#   SOURCE    elements that give raw video              (a live test picture, 720p30)
set -eu
WEB_PORT=${WEB_PORT:-8080}
PORT=${PORT:-8443}
LISTEN=${LISTEN:-127.0.0.1}
BITRATE=${BITRATE:-2500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualwebrtcsink run-web-server=true web-server-host="$LISTEN" web-server-port="$WEB_PORT" \
        run-signalling-server=true signalling-server-host="$LISTEN" signalling-server-port="$PORT" \
        encoder::bitrate="$BITRATE" encoder::refresh-interval=2000
