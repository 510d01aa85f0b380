#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives plain H.264 over RTP and UDP with rtpkalmanjitterbuffer and nothing
# else of this project: it waits as long as the network makes packets late, and
# no longer. Each packet is held up on purpose, by up to JITTER.
#
# Expected: a window with a ball that moves evenly (on Debian the window needs
# the package gstreamer1.0-x). GST_DEBUG=rtpkalmanjitterbuffer:5 tells how long it
# waits. It goes on until it is interrupted.
#
# Parameters by environment:
#   PORT     UDP                                             (5000)
#   LATENCY  to start with, ms                               (50)
#   JITTER   longest time a packet is held up for, ms        (20)
#   SINK     elements that show raw video                    (autovideosink)
set -eu
PORT=${PORT:-5000}
LATENCY=${LATENCY:-50}
JITTER=${JITTER:-20}
SINK=${SINK:-autovideosink}
RTP="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96"

# In rtpbin it takes the place of rtpjitterbuffer by the signal
# request-jitterbuffer, which needs a program.
# shellcheck disable=SC2086
exec gst-launch-1.0 udpsrc port="$PORT" caps="$RTP" \
    ! netsim delay-probability=1 min-delay=0 max-delay="$JITTER" ! rtpkalmanjitterbuffer latency="$LATENCY" \
    ! rtph264depay ! avdec_h264 ! videoconvert ! $SINK
