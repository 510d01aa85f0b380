#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Compiles and runs the programs of docs/embedding.md: each sender with a
# receiver in another language, until that has PICTURES pictures.
# GST_PLUGIN_PATH must have the plugins.
#
#   ci/check-embedding.sh <folder for logs and programs> <folder of the Rust programs>
set -u
cd "$(dirname "$0")/.." || exit 1
logs=$1 rust=$2
PICTURES=${PICTURES:-60}
LIMIT=${LIMIT:-40}
mkdir -p "$logs"

c() {
    cc -Wall -Wextra -Werror -o "$logs/$1" "docs/examples/c/$1.c" \
        $(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0)
}

# The one that has PyGObject may not be the first.
python=
for candidate in python3 /usr/bin/python3; do
    "$candidate" -c 'import gi; gi.require_version("GstApp", "1.0")' 2>/dev/null && { python=$candidate; break; }
done
[ -n "$python" ] || echo "python3-gi or gir1.2-gst-plugins-base-1.0 is not installed: Python is not checked"

# Sender, receiver and port; each program is one word or two.
pair() {
    local name="$1 -> $2" send=$logs/send-$3.log receive=$logs/receive-$3.log sender status
    # shellcheck disable=SC2086
    $1 "$3" >"$send" 2>&1 </dev/null & sender=$!
    # shellcheck disable=SC2086
    timeout "$LIMIT" $2 "ws://127.0.0.1:$3" "$PICTURES" >"$receive" 2>&1 </dev/null
    status=$?
    kill "$sender" 2>/dev/null
    wait "$sender" 2>/dev/null
    if [ $status = 0 ] && grep -q "^$PICTURES pictures received" "$receive" &&
        grep -q '^connected, dual stream' "$send" && ! grep -E 'CRITICAL|WARNING' "$send" "$receive"; then
        echo "$name: $PICTURES pictures"
    else
        echo "$name: status $status"
        tail -n 20 "$send" "$receive"
        return 1
    fi
}

failed=0 count=0 port=$((21000 + $$ % 20000))
c send && c receive || exit 1
while read -r sender receiver; do
    case "$sender $receiver" in *python*) [ -n "$python" ] || continue ;; esac
    program() {
        case $1 in
            python) echo "$python docs/examples/python/$2.py" ;;
            c) echo "$logs/$2" ;;
            rust) echo "$rust/example-$2" ;;
        esac
    }
    pair "$(program "$sender" send)" "$(program "$receiver" receive)" $port || failed=$((failed + 1))
    port=$((port + 1)) count=$((count + 1))
done <<PAIRS
c python
python rust
rust c
PAIRS
# webrtcsink with our estimator: it finds more than the start rate.
webrtcsink() {
    local send=$logs/webrtcsink.log receive=$logs/webrtcsink-receive.log sender status
    "$rust/example-webrtcsink" "$1" >"$send" 2>&1 </dev/null & sender=$!
    timeout "$LIMIT" "$rust/example-receive" "ws://127.0.0.1:$1" "$((3 * PICTURES))" >"$receive" 2>&1 </dev/null
    status=$?
    kill "$sender" 2>/dev/null
    wait "$sender" 2>/dev/null
    if [ $status = 0 ] &&
        awk '/^estimate:/ && $2 > most { most = $2 } END { print "webrtcsink with rtpgcc: at most", most, "bit/s"; exit most <= 600000 }' "$send"; then
        return 0
    fi
    echo "webrtcsink: status $status"
    tail -n 20 "$send" "$receive"
    return 1
}
webrtcsink $port || failed=$((failed + 1))
count=$((count + 1))

echo "$count pairs of programs run, $failed failed"
[ $failed = 0 ]
