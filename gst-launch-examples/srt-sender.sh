#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Contribution over SRT: a moving test picture as H.264 (Constrained Baseline)
# and a tone as Opus in an MPEG transport stream, for srt-receiver.sh or a media
# server (docs/srt.md).
#
# SRT repairs losses within its latency, which must bear a few round trips: it
# is set to three times the round trip that ping measures, 20 to 1000 ms; to
# 120 ms where ping gets no answer. The larger one of both sides counts.
#
# Start srt-receiver.sh too. Expected: it shows the picture and plays the tone;
# this prints the latency, nothing after "Redistribute latency", and goes on
# until it is interrupted.
#
# Parameters by environment:
#   HOST     of the receiver                       (127.0.0.1)
#   PORT     of the receiver, UDP                  (7001)
#   LATENCY  of SRT, in ms                         (three times the round trip)
#   STREAMID for a media server, such as publish:live  (none)
#   BITRATE  of the video, bit/s                   (2000000)
#   ENCODER  x264enc or openh264enc                (x264enc)
#   AUDIO    opus or aac                           (opus)
#   SOURCE   elements that give raw video          (a live test picture, 720p30)
#   SOUND    elements that give raw audio          (a quiet live tone)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-7001}
LATENCY=${LATENCY:-}
STREAMID=${STREAMID:-}
BITRATE=${BITRATE:-2000000}
ENCODER=${ENCODER:-x264enc}
AUDIO=${AUDIO:-opus}
SOURCE=${SOURCE:-videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1}
SOUND=${SOUND:-audiotestsrc is-live=true volume=0.1 samplesperbuffer=480}

# Three times the mean of three pings.
if [ -z "$LATENCY" ]; then
    LATENCY=$(ping -n -q -c 3 -i 0.2 -W 1 "$HOST" 2>/dev/null |
        awk -F/ '/^(rtt|round-trip)/ { ms = 3 * $5; print int(ms < 20 ? 20 : ms > 1000 ? 1000 : ms + 0.5) }') || true
    LATENCY=${LATENCY:-120}
fi
echo "SRT latency: $LATENCY ms"

# A key frame each 2 s: a receiver that comes later, and a recording, need them.
case $ENCODER in
    x264enc) CODE="x264enc tune=zerolatency speed-preset=veryfast bitrate=$((BITRATE / 1000)) key-int-max=60 vbv-buf-capacity=200" ;;
    openh264enc) CODE="openh264enc rate-control=bitrate bitrate=$BITRATE max-bitrate=$((2 * BITRATE)) gop-size=60 scene-change-detection=false complexity=low" ;;
    *) echo "ENCODER=$ENCODER is not known: x264enc or openh264enc" >&2; exit 2 ;;
esac
case $AUDIO in
    opus) AUDIO_CODE="opusenc bitrate=128000 frame-size=10 ! opusparse" ;;
    # What is installed of GStreamer's AAC encoders.
    aac)
        for aac in fdkaacenc voaacenc avenc_aac; do
            gst-inspect-1.0 --exists "$aac" && break
        done
        AUDIO_CODE="$aac bitrate=128000 ! aacparse" ;;
    *) echo "AUDIO=$AUDIO is not known: opus or aac" >&2; exit 2 ;;
esac

URI="srt://$HOST:$PORT?mode=caller&latency=$LATENCY"
[ -z "$STREAMID" ] || URI="$URI&streamid=$STREAMID"

# Seven packets of 188 bytes are what one SRT packet takes.
# shellcheck disable=SC2086
exec gst-launch-1.0 mpegtsmux name=mux alignment=7 \
        ! srtsink uri="$URI" wait-for-connection=false sync=false async=false \
    $SOURCE ! videoconvert ! video/x-raw,format=I420 ! queue ! $CODE \
        ! video/x-h264,profile=constrained-baseline ! h264parse config-interval=-1 ! queue ! mux. \
    $SOUND ! audioconvert ! audioresample ! audio/x-raw,rate=48000,channels=2 ! $AUDIO_CODE ! queue ! mux.
