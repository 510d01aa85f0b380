#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives what rtp-gcc-sender.sh sends, shows it, and reports when each packet
# arrived.
#
# Expected: a window with a ball that moves (on Debian the window needs the
# package gstreamer1.0-x). It goes on until it is interrupted.
#
# Parameters by environment:
#   HOST     of the sender, for RTCP                 (127.0.0.1)
#   PORT     first of the UDP ports PORT + 0 to 2    (5000)
#   SINK     elements that show raw video            (autovideosink)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
SINK=${SINK:-autovideosink}
RTP="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-nack-pli=(boolean)true"

# shellcheck disable=SC2086
exec gst-launch-1.0 rtpbin name=rtp rtp-profile=avpf latency=50 \
    udpsrc port="$PORT" caps="$RTP" ! rtp.recv_rtp_sink_0 \
    udpsrc port=$((PORT + 1)) ! rtp.recv_rtcp_sink_0 \
    rtp.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 2)) sync=false async=false \
    rtp. ! rtph264depay ! avdec_h264 ! videoconvert ! $SINK
