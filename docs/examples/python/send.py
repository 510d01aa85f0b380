#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Sends a test picture and a tone, and says each second how it goes.

    send.py [port of the signalling server]
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst

Gst.init(None)
port = sys.argv[1] if len(sys.argv) > 1 else "8443"
pipeline = Gst.parse_launch(
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=30/1"
    f" ! dualwebrtcsink name=sink run-signalling-server=true signalling-server-port={port}"
    " audiotestsrc is-live=true volume=0.1 ! sink.audio"
)
sink = pipeline.get_by_name("sink")
# What belongs to a part of it goes by the name of the part.
Gst.ChildProxy.set_property(sink, "encoder::bitrate", 1_000_000)
loop = GLib.MainLoop()


def on_message(bus, message):
    if message.type == Gst.MessageType.ERROR:
        print(message.parse_error()[0].message, file=sys.stderr)
        loop.quit()
    elif message.type == Gst.MessageType.WARNING:
        print(message.parse_warning()[0].message)
    elif message.type == Gst.MessageType.LATENCY:
        pipeline.recalculate_latency()
    elif message.type == Gst.MessageType.EOS:
        loop.quit()


def tell():
    stats = sink.get_property("stats")
    kind = "dual stream" if stats.get_value("dual") else "single stream"
    print(f"{stats.get_value('connection-state')}, {kind}, {stats.get_value('pictures-encoded')} pictures", flush=True)
    return True


bus = pipeline.get_bus()
bus.add_signal_watch()
bus.connect("message", on_message)
GLib.timeout_add_seconds(1, tell)
pipeline.set_state(Gst.State.PLAYING)
try:
    loop.run()
except KeyboardInterrupt:
    pass
pipeline.set_state(Gst.State.NULL)
