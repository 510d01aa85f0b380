#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Sends a moving test picture as dual-stream H.264 over RTP and UDP, without
# WebRTC: two RTP sessions in one rtpbin, RTCP both ways. Every two seconds a
# key frame goes in the background on the stream that is not shown, and when
# the receiver says that it is complete, that stream takes over.
#
# Start rtp-udp-receiver.sh too, in any order. Expected: it shows the picture
# without a pause; this prints nothing after "Redistribute latency" and goes on
# until it is interrupted. GST_DEBUG=dualh264enc:4 tells of each switch.
#
# Parameters by environment:
#   HOST     of the receiver                   (127.0.0.1)
#   PORT     first of the UDP ports PORT + 0 to 6    (5000)
#   BITRATE  of both streams together, bit/s   (1500000)
#   SOURCE   elements that give raw video      (a live test picture, 720p30)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
BITRATE=${BITRATE:-1500000}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}
RTP="application/x-rtp,payload=96,extmap-4=(string)urn:x-gst-dualstream:frame:1,rtcp-fb-nack-pli=(boolean)true"

# shellcheck disable=SC2086
exec gst-launch-1.0 rtpbin name=rtp rtp-profile=avpf \
    $SOURCE ! videoconvert ! dualh264enc name=enc bitrate="$BITRATE" refresh-interval=2000 \
    enc.src_0 ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! "$RTP" \
        ! rtptrickle ! rtcpiframefeedback ! rtp.send_rtp_sink_0 \
    enc.src_1 ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! "$RTP" \
        ! rtptrickle ! rtcpiframefeedback ! rtp.send_rtp_sink_1 \
    rtp.send_rtp_src_0 ! udpsink host="$HOST" port="$PORT" sync=false async=false \
    rtp.send_rtcp_src_0 ! udpsink host="$HOST" port=$((PORT + 1)) sync=false async=false \
    udpsrc port=$((PORT + 2)) ! rtp.recv_rtcp_sink_0 \
    rtp.send_rtp_src_1 ! udpsink host="$HOST" port=$((PORT + 4)) sync=false async=false \
    rtp.send_rtcp_src_1 ! udpsink host="$HOST" port=$((PORT + 5)) sync=false async=false \
    udpsrc port=$((PORT + 6)) ! rtp.recv_rtcp_sink_1
