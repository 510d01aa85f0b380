#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Receives what srt-sender.sh sends over SRT, shows the picture and plays the
# sound.
#
# Expected: a window with a ball that moves, and a quiet tone (on Debian the
# window needs the package gstreamer1.0-x). It prints the latency first, three
# times the round trip that ping measures to HOST, 20 to 1000 ms, and goes on
# until it is interrupted; senders may come and go.
#
# Parameters by environment:
#   HOST     of the sender, to measure the round trip  (127.0.0.1)
#   PORT     to listen on, UDP                     (7001)
#   LATENCY  of SRT, in ms                         (three times the round trip)
#   SINK     elements that show raw video          (autovideosink)
#   SPEAKER  elements that play raw audio          (autoaudiosink)
set -eu
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-7001}
LATENCY=${LATENCY:-}
SINK=${SINK:-autovideosink}
SPEAKER=${SPEAKER:-autoaudiosink}

# Three times the mean of three pings.
if [ -z "$LATENCY" ]; then
    LATENCY=$(ping -n -q -c 3 -i 0.2 -W 1 "$HOST" 2>/dev/null |
        awk -F/ '/^(rtt|round-trip)/ { ms = 3 * $5; print int(ms < 20 ? 20 : ms > 1000 ? 1000 : ms + 0.5) }') || true
    LATENCY=${LATENCY:-120}
fi
echo "SRT latency: $LATENCY ms"

# tsdemux would add 700 ms to smooth what SRT has smoothed already. decodebin
# takes Opus as well as AAC.
# shellcheck disable=SC2086
exec gst-launch-1.0 srtsrc uri="srt://:$PORT?mode=listener&latency=$LATENCY" ! tsdemux name=demux latency=0 \
    demux. ! h264parse ! queue ! avdec_h264 ! videoconvert ! $SINK \
    demux. ! "audio/x-opus;audio/mpeg" ! queue ! decodebin ! audioconvert ! audioresample ! $SPEAKER
