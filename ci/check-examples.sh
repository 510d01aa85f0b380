#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs each pair gst-launch-examples/<name>-sender.sh and <name>-receiver.sh on
# this machine until the receiver has shown FRAMES frames, or fails after LIMIT
# seconds. GST_PLUGIN_PATH must have the plugins.
#
#   ci/check-examples.sh <folder for logs>
set -u
cd "$(dirname "$0")/.." || exit 1
logs=$1
FRAMES=${FRAMES:-150}
LIMIT=${LIMIT:-40}
# Counts what the receiver shows; works without a display.
COUNTING_SINK="progressreport do-query=false format=buffers update-freq=1 ! fakesink"
export COUNTING_SINK
# The same for sound.
COUNTING_SPEAKER="progressreport name=sound do-query=false format=buffers update-freq=1 ! fakesink"

frames() { sed -n 's/^progressreport.*: \([0-9]*\) buffers.*/\1/p' "$1" | tail -n 1; }
sounds() { sed -n 's/^sound .*: \([0-9]*\) buffers.*/\1/p' "$1" | tail -n 1; }
running() { kill -0 "$1" 2>/dev/null; }
complaints() { grep -nE 'ERROR|CRITICAL|\(gst-launch-1.0:[0-9]+\).*WARNING|no element|no property|could not link|erroneous pipeline' "$@"; }

end() {
    running "$1" && kill -INT "$1"
    for _ in $(seq 50); do
        running "$1" || { wait "$1"; return; }
        sleep 0.1
    done
    echo "does not end within 5 s of an interrupt"
    kill -KILL "$1"
    wait "$1"
    return 1
}

# A browser without a screen that opens a page and presses Start; its camera is
# not a real one.
browse() {
    chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync \
        --disable-features=WebRtcHideLocalIpsWithMdns --autoplay-policy=no-user-gesture-required \
        --use-fake-device-for-media-stream --use-fake-ui-for-media-stream \
        --user-data-dir="$logs/example-browser-$2" "http://127.0.0.1:$1/?autostart=1" \
        >"$logs/example-browser-$2.log" 2>&1 </dev/null &
}

# Sender and receiver have a browser each at the other end.
browsers() {
    local port=$1 send=$logs/example-browser-sender.log receive=$logs/example-browser-receiver.log
    local sender receiver pages shown=0 wrong=0
    command -v chromium >/dev/null || { echo "browser: skipped, chromium is not installed"; return; }
    PORT=$port WEB_PORT=$((port + 1)) GST_DEBUG=dualwebrtcsink:4 GST_DEBUG_NO_COLOR=1 \
        ./gst-launch-examples/browser-sender.sh >"$send" 2>&1 </dev/null & sender=$!
    PORT=$((port + 2)) WEB_PORT=$((port + 3)) SINK=$COUNTING_SINK \
        ./gst-launch-examples/browser-receiver.sh >"$receive" 2>&1 </dev/null & receiver=$!
    sleep 1
    browse $((port + 1)) watches; pages=$!
    browse $((port + 3)) sends; pages="$pages $!"
    for _ in $(seq "$LIMIT"); do
        sleep 1
        shown=$(frames "$receive")
        [ "${shown:-0}" -ge "$FRAMES" ] && grep -q 'is a page and takes dual stream' "$send" && break
    done
    complaints "$send" "$receive" && wrong=1
    [ "${shown:-0}" -ge "$FRAMES" ] || { echo "browser: ${shown:-0} frames came from it in $LIMIT s, $FRAMES wanted"; wrong=1; }
    grep -q 'is a page and takes dual stream' "$send" || { echo "browser: the page did not take dual stream"; wrong=1; }
    for page in $pages; do end "$page" || wrong=1; done
    rm -rf "$logs/example-browser-watches" "$logs/example-browser-sends"
    end "$receiver" || { echo "browser: receiver, see $receive"; wrong=1; }
    end "$sender" || { echo "browser: sender, see $send"; wrong=1; }
    if [ $wrong = 1 ]; then
        tail -n 20 "$send" "$receive"
    else
        echo "browser: $shown frames from it, and one that watches both streams"
    fi
    return $wrong
}

# Runs one pair; prints what is wrong. A third word tells runs of one pair apart.
pair() {
    local name=$1 port=$2 label=$1${3+-$3}
    local send=$logs/example-$label-sender.log receive=$logs/example-$label-receiver.log
    local sender receiver shown=0 heard='' wrong=0
    start_sender() { PORT=$port "./gst-launch-examples/$name-sender.sh" >"$send" 2>&1 </dev/null & sender=$!; }
    start_receiver() { PORT=$port SINK=$COUNTING_SINK SPEAKER=$COUNTING_SPEAKER "./gst-launch-examples/$name-receiver.sh" >"$receive" 2>&1 </dev/null & receiver=$!; }
    start_sender
    sleep 1
    start_receiver
    for _ in $(seq "$LIMIT"); do
        sleep 1
        shown=$(frames "$receive")
        [ "${shown:-0}" -ge "$FRAMES" ] && break
        running "$sender" || { echo "$name: the sender has ended by itself"; wrong=1; break; }
        running "$receiver" || { echo "$name: the receiver has ended by itself"; wrong=1; break; }
    done
    # A peer that goes away first is no fault of the one that is asked next.
    complaints "$send" "$receive" && wrong=1
    [ "${shown:-0}" -ge "$FRAMES" ] || { echo "$name: ${shown:-0} frames shown in $LIMIT s, $FRAMES wanted"; wrong=1; }
    if grep -q SPEAKER "gst-launch-examples/$name-receiver.sh"; then
        heard=$(sounds "$receive")
        [ "${heard:-0}" -gt 0 ] || { echo "$name: no sound in $LIMIT s"; wrong=1; }
    fi
    end "$receiver" || { echo "$name: receiver, see $receive"; wrong=1; }
    end "$sender" || { echo "$name: sender, see $send"; wrong=1; }
    if [ $wrong = 1 ]; then
        tail -n 20 "$send" "$receive"
    else
        echo "$label: $shown frames shown${heard:+, $heard of sound}"
    fi
    return $wrong
}

# Janus stands in for the receiver; that its viewers see something is tested in
# tools/chromium/tests/janus.rs.
janus_sender() {
    local port=$1 conf=$logs/janus libraries janus sender wrong=1
    local send=$logs/example-janus-sender.log
    libraries=$(dirname "$(dirname "$(find /usr/lib -name libjanus_videoroom.so 2>/dev/null | head -n 1)")")
    if ! command -v janus >/dev/null || [ ! -e "$libraries/transports/libjanus_websockets.so" ]; then
        echo "janus: skipped, Debian's package janus is not installed"
        return 0
    fi
    others() { for file in "$libraries/$1"/*.so; do case $file in *"$2"*) ;; *) printf '%s,' "${file##*/}" ;; esac; done; }
    mkdir -p "$conf"
    cat >"$conf/janus.jcfg" <<END
general: {
    configs_folder = "$conf"
    plugins_folder = "$libraries/plugins"
    transports_folder = "$libraries/transports"
    debug_level = 4
    debug_colors = false
}
plugins: { disable = "$(others plugins videoroom)" }
transports: { disable = "$(others transports websockets)" }
END
    echo "general: { ws = true, ws_port = $port, ws_ip = \"127.0.0.1\" }" >"$conf/janus.transport.websockets.jcfg"
    echo "room-1234: { publishers = 2, videocodec = \"h264\" }" >"$conf/janus.plugin.videoroom.jcfg"
    janus -F "$conf" >"$conf/log" 2>&1 </dev/null & janus=$!
    # It tries on until Janus is there.
    PORT=$port ./gst-launch-examples/janus-sender.sh >"$send" 2>&1 </dev/null & sender=$!
    for _ in $(seq "$LIMIT"); do
        sleep 1
        grep -q "WebRTC media is now available" "$conf/log" && { wrong=0; break; }
        running "$sender" || { echo "janus: the sender has ended by itself"; break; }
        running "$janus" || { echo "janus: it does not run, see $conf/log"; break; }
    done
    complaints "$send" && wrong=1
    end "$sender" || { echo "janus: sender, see $send"; wrong=1; }
    kill "$janus" 2>/dev/null
    wait "$janus" 2>/dev/null
    if [ $wrong = 1 ]; then
        tail -n 20 "$send" "$conf/log"
    else
        echo "janus: Janus takes it"
    fi
    return $wrong
}

status=0 count=0 port=$((20000 + $$ % 20000))
for script in gst-launch-examples/*.sh; do
    name=$(basename "$script" .sh)
    case $name in
        janus-sender)
            janus_sender "$port" || status=1
            port=$((port + 20))
            ;;
        *-sender)
            name=${name%-sender}
            [ -x "gst-launch-examples/$name-receiver.sh" ] || { echo "$name has no receiver"; status=1; continue; }
            if [ "$name" = browser ]; then
                browsers "$port" || status=1
                port=$((port + 20)) count=$((count + 1))
                continue
            fi
            pair "$name" "$port" || status=1
            port=$((port + 20)) count=$((count + 1))
            if [ "$name" = srt ]; then
                AUDIO=aac pair "$name" "$port" aac || status=1
                port=$((port + 20)) count=$((count + 1))
            fi
            ;;
        *-receiver) [ -x "${script%-receiver.sh}-sender.sh" ] || { echo "$name has no sender"; status=1; } ;;
        *) echo "$name is neither a sender nor a receiver: nobody runs it"; status=1 ;;
    esac
done
if [ $count = 0 ]; then
    echo "there are no examples"
    status=1
fi
[ $status = 0 ] && echo "$count pairs run"
exit $status
