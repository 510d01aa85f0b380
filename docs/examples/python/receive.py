#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Receives pictures into the program.

    receive.py [uri of the signalling server [number of pictures]]
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: F401, gives appsink its methods

Gst.init(None)
uri = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8443"
wanted = int(sys.argv[2]) if len(sys.argv) > 2 else None
pipeline = Gst.parse_launch(
    f"dualwebrtcsrc name=source signaller::uri={uri} ! videoconvert ! video/x-raw,format=GRAY8"
    # Each picture as soon as it is there, the newest if the program is too slow.
    " ! appsink name=pictures sync=false max-buffers=1 drop=true"
)
source, sink = pipeline.get_by_name("source"), pipeline.get_by_name("pictures")
bus = pipeline.get_bus()
pipeline.set_state(Gst.State.PLAYING)
count, failed = 0, False
while count != wanted and not failed and not sink.is_eos():
    while message := bus.pop():
        if message.type == Gst.MessageType.ERROR:
            print(message.parse_error()[0].message, file=sys.stderr)
            failed = True
        elif message.type == Gst.MessageType.LATENCY:
            pipeline.recalculate_latency()
    sample = sink.try_pull_sample(100 * Gst.MSECOND)
    if sample is None:
        continue
    count += 1
    if count % 30 == 0:
        buffer = sample.get_buffer()
        pixels = buffer.extract_dup(0, buffer.get_size())
        state = source.get_property("stats").get_value("connection-state")
        print(f"{count} pictures, mean brightness {sum(pixels) // len(pixels)}, {state}", flush=True)
pipeline.set_state(Gst.State.NULL)
print(f"{count} pictures received")
sys.exit(failed)
