#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives what rtp-fec-sender.sh sends, loses some of it on purpose, recovers
# that by FEC and shows it; tells the sender which packets arrived.
#
# Expected: a window with a ball that moves (on Debian the window needs the
# package gstreamer1.0-x), after a few seconds whole in spite of the loss. It
# goes on until it is interrupted.
#
# Parameters by environment:
#   HOST     of the sender, for RTCP                 (127.0.0.1)
#   PORT     first of the UDP ports PORT + 0 to 2    (5000)
#   LOSS     share of packets lost on purpose        (0.05)
#   SINK     elements that show raw video            (autovideosink)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
LOSS=${LOSS:-0.05}
SINK=${SINK:-autovideosink}
RTP="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-nack-pli=(boolean)true"

# The session alone: the decoder must be behind it, which reports FEC packets,
# and in front of the jitter buffer, for which rtpbin needs a program. The demuxes
# say of which stream a key frame is asked for when something could not be
# recovered.
# shellcheck disable=SC2086
exec gst-launch-1.0 rtpsession name=session rtp-profile=avpf \
    udpsrc port="$PORT" caps="$RTP" ! identity drop-probability="$LOSS" ! session.recv_rtp_sink \
    udpsrc port=$((PORT + 1)) ! session.recv_rtcp_sink \
    session.send_rtcp_src ! udpsink host="$HOST" port=$((PORT + 2)) sync=false async=false \
    session.recv_rtp_src ! rtpflexfecdec pt=110 ! rtpssrcdemux ! rtpkalmanjitterbuffer latency=100 ! rtpptdemux \
        ! rtph264depay ! avdec_h264 ! videoconvert ! $SINK
