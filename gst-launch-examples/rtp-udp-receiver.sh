#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives what rtp-udp-sender.sh sends, decodes both streams and shows each
# picture once, from whichever of the two is the display stream; tells the
# sender which background frames are complete.
#
# Expected: a window with a ball that moves without a pause (on Debian the
# window needs the package gstreamer1.0-x). It goes on until it is interrupted.
#
# Parameters by environment:
#   HOST     of the sender, for RTCP                 (127.0.0.1)
#   PORT     first of the UDP ports PORT + 0 to 6    (5000)
#   SINK     elements that show raw video            (autovideosink)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
SINK=${SINK:-autovideosink}
RTP="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,extmap-4=(string)urn:x-gst-dualstream:frame:1,rtcp-fb-nack-pli=(boolean)true"

# One rtpbin for each session: gst-launch-1.0 cannot tell the pads of two
# sessions apart before they are there.
# shellcheck disable=SC2086
exec gst-launch-1.0 rtpbin name=rtp0 rtp-profile=avpf latency=50 rtpbin name=rtp1 rtp-profile=avpf latency=50 \
    udpsrc port="$PORT" caps="$RTP" ! rtp0.recv_rtp_sink_0 \
    udpsrc port=$((PORT + 1)) ! rtp0.recv_rtcp_sink_0 \
    rtp0.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 2)) sync=false async=false \
    udpsrc port=$((PORT + 4)) caps="$RTP" ! rtp1.recv_rtp_sink_0 \
    udpsrc port=$((PORT + 5)) ! rtp1.recv_rtcp_sink_0 \
    rtp1.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 6)) sync=false async=false \
    rtp0. ! rtcpiframefeedback ! rtph264depay ! dec.sink_0 \
    rtp1. ! rtcpiframefeedback ! rtph264depay ! dec.sink_1 \
    dualh264dec name=dec ! videoconvert ! $SINK
