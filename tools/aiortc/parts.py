# SPDX-License-Identifier: MPL-2.0
"""Where a picture is, and for how long, from aiortc's socket to its application.

aiortc has no statistics of this: its own functions are listened to, as
peer.py's `watch_aiortc` does. Each second one line of JSON for
dualstream-bench, a sample as tools/bench/src/call/log.rs has it.

Gauges, means of the last second in ms, of a receiver one stage behind the other:

  loop-ms          a packet, from the socket until asyncio gives it to aiortc
  arrival-ms       a picture, from its first packet until its last
  jitter-delay-ms  from there until it is out of the jitter buffer
  decoder-ms       until it is decoded
  track-ms         until the application has it
  encode-ms        of a sender: for a picture

Counters:

  rtx-recovered    packets sent again and taken, at their place
  rtx-refused      given to the receiver, whose SSRC for them it does not know
  unrouted         packets that no receiver got
  nacks, nacked    messages, and packets asked for by them
  plis             pictures asked for
  overflows        of the jitter buffer: it gave up what was lost
  key-frames       coded
  encoders         begun: aiortc takes a new one for a rate that differs by 10 %
  cpu-s            of the process, in s
"""

import collections
import json
import threading
import time

import aioice.ice
from aiortc import jitterbuffer, rtcdtlstransport, rtcrtpreceiver
from aiortc.codecs import h264, is_rtx

GAUGES = ("loop-ms", "arrival-ms", "jitter-delay-ms", "decoder-ms", "track-ms", "encode-ms")
COUNTERS = (
    "rtx-recovered", "rtx-refused", "unrouted", "nacks", "nacked", "plis", "overflows",
    "key-frames", "encoders",
)
# Pictures on their way; more than a full jitter buffer and decoder have.
MOST = 4096


class Parts:
    def __init__(self):
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.sums = {name: [0.0, 0] for name in GAUGES}
        # Of datagrams that aioice has and aiortc has not.
        self.waiting = collections.deque()
        # By RTP timestamp: arrival of the first packet and the last.
        self.arrived = {}
        # By the decoder's timestamp: when it was decoded.
        self.decoded = {}
        # The decoder has a thread of its own.
        self.lock = threading.Lock()

    def gauge(self, name, since, until):
        with self.lock:
            entry = self.sums[name]
            entry[0] += (until - since) * 1e3
            entry[1] += 1

    def sample(self, more):
        with self.lock:
            values = {
                name: round(total / count, 3)
                for name, (total, count) in self.sums.items() if count
            }
            self.sums = {name: [0.0, 0] for name in GAUGES}
        values.update(self.counters)
        values["cpu-s"] = time.process_time()
        values.update(more)
        print(json.dumps({"line": "sample", "at": time.time_ns(), "values": values}), flush=True)

    def taken(self, frame):
        """The application has it."""
        with self.lock:
            at = self.decoded.pop(frame.pts, None)
        if at is not None:
            self.gauge("track-ms", at, time.monotonic())

    def packet(self, timestamp, at):
        first, _ = self.arrived.get(timestamp, (at, at))
        self.arrived[timestamp] = (first, at)
        bound(self.arrived)

    def assembled(self, frame, now):
        times = self.arrived.pop(frame.timestamp, None)
        frame.out = now
        if times is not None:
            first, last = times
            self.gauge("arrival-ms", first, last)
            self.gauge("jitter-delay-ms", last, now)


def bound(table):
    while len(table) > MOST:
        del table[next(iter(table))]


def wrap(owner, name):
    """Decorator: puts the function in the place of one of aiortc's, which it gets first."""
    original = getattr(owner, name)

    def put(function):
        setattr(owner, name, lambda *args, **kwargs: function(original, *args, **kwargs))
        return function

    return put


def listen():
    """From here on; once, before there is a connection."""
    parts = Parts()
    listen_to_transport(parts)
    listen_to_receiver(parts)
    listen_to_buffer(parts)
    listen_to_encoder(parts)
    return parts


def listen_to_transport(parts):
    @wrap(aioice.ice.Connection, "data_received")
    def data_received(original, self, data, component):
        parts.waiting.append(time.monotonic())
        return original(self, data, component)

    @wrap(aioice.ice.Connection, "recvfrom")
    async def recvfrom(original, self):
        result = await original(self)
        if parts.waiting:
            parts.gauge("loop-ms", parts.waiting.popleft(), time.monotonic())
        return result

    @wrap(rtcdtlstransport.RtpRouter, "route_rtp")
    def route_rtp(original, self, packet):
        receiver = original(self, packet)
        parts.counters["unrouted"] += receiver is None
        return receiver


def listen_to_receiver(parts):
    receiver_class = rtcrtpreceiver.RTCRtpReceiver

    def private(receiver, name):
        return getattr(receiver, f"_RTCRtpReceiver__{name}")

    @wrap(receiver_class, "_handle_rtp_packet")
    async def handle(original, self, packet, arrival_time_ms):
        codec = private(self, "codecs").get(packet.payload_type)
        if codec is not None and private(self, "kind") == "video":
            known = packet.ssrc in private(self, "rtx_ssrc")
            if is_rtx(codec):
                parts.counters["rtx-recovered" if known else "rtx-refused"] += 1
            if known or not is_rtx(codec):
                parts.packet(packet.timestamp, time.monotonic())
        await original(self, packet, arrival_time_ms)

    @wrap(receiver_class, "_send_rtcp_nack")
    async def send_nack(original, self, media_ssrc, lost):
        parts.counters["nacks"] += 1
        parts.counters["nacked"] += len(lost)
        await original(self, media_ssrc, lost)

    @wrap(receiver_class, "_send_rtcp_pli")
    async def send_pli(original, self, media_ssrc):
        parts.counters["plis"] += 1
        await original(self, media_ssrc)


def listen_to_buffer(parts):
    @wrap(jitterbuffer.JitterBuffer, "add")
    def add(original, self, packet):
        gave_up, frame = original(self, packet)
        if self._is_video:
            parts.counters["overflows"] += gave_up
            if frame is not None:
                parts.assembled(frame, time.monotonic())
        return gave_up, frame

    @wrap(h264.H264Decoder, "decode")
    def decode(original, self, encoded):
        frames = original(self, encoded)
        now = time.monotonic()
        if hasattr(encoded, "out"):
            parts.gauge("decoder-ms", encoded.out, now)
        with parts.lock:
            for frame in frames:
                parts.decoded[frame.pts] = now
            bound(parts.decoded)
        return frames


def nal_type(payload):
    """Of what an RTP payload begins with, in a fragment or in a group, too."""
    kind = payload[0] & 31
    inside = {28: 1, 24: 3}.get(kind)
    return kind if inside is None else payload[inside] & 31


def listen_to_encoder(parts):
    @wrap(h264.H264Encoder, "encode")
    def encode(original, self, frame, force_keyframe=False):
        before, since = self.codec, time.monotonic()
        payloads, timestamp = original(self, frame, force_keyframe)
        parts.gauge("encode-ms", since, time.monotonic())
        parts.counters["encoders"] += self.codec is not before
        # Parameter sets come with each key frame.
        parts.counters["key-frames"] += any(nal_type(p) in (5, 7) for p in payloads if len(p) > 3)
        return payloads, timestamp
