#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as H.264 over RTP and UDP, without WebRTC, and
# protects it by FlexFEC: as much as the losses need that the receiver's
# transport-wide feedback tells of. The bitrate is fixed; FEC comes on top of it.
#
# Start rtp-fec-receiver.sh too, in any order. Expected: it shows the picture;
# this prints nothing after "Redistribute latency" and goes on until it is
# interrupted. GST_DEBUG=rtpflexfecenc:6 tells how many FEC packets there are.
#
# Parameters by environment:
#   HOST     of the receiver                   (127.0.0.1)
#   PORT     first of the UDP ports PORT + 0 to 2    (5000)
#   BITRATE  of the video, bit/s               (2000000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
BITRATE=${BITRATE:-2000000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}
RTP="application/x-rtp,payload=96,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-nack-pli=(boolean)true"

# Nothing asks for lost packets again here.
# shellcheck disable=SC2086
exec gst-launch-1.0 rtpbin name=rtp rtp-profile=avpf \
    $SOURCE ! videoconvert ! dualh264enc mode=single bitrate="$BITRATE" \
        ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! "$RTP" \
        ! rtpflexfecenc pt=110 nack=false deadline=100 ! rtp.send_rtp_sink_0 \
    rtp.send_rtp_src_0 ! udpsink host="$HOST" port="$PORT" sync=false async=false \
    rtp.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 1)) sync=false async=false \
    udpsrc port=$((PORT + 2)) ! rtp.recv_rtcp_sink_0
