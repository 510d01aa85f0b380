#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as plain H.264 over RTP and UDP: what
# rtp-jitter-receiver.sh takes. Any sender of H.264 with payload type 96 will do.
#
# Expected: this prints nothing after "Redistribute latency" and goes on until it
# is interrupted.
#
# Parameters by environment:
#   HOST     of the receiver                   (127.0.0.1)
#   PORT     UDP                               (5000)
#   BITRATE  bit/s                             (2000000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
BITRATE=${BITRATE:-2000000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}

# A key frame now and then: nothing comes back that asks for one.
# shellcheck disable=SC2086
exec gst-launch-1.0 $SOURCE ! videoconvert \
    ! dualh264enc mode=single bitrate="$BITRATE" refresh-interval=2000 \
    ! rtph264pay config-interval=-1 aggregate-mode=zero-latency pt=96 \
    ! udpsink host="$HOST" port="$PORT" sync=false async=false
