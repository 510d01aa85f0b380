#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""A peer on aiortc for dualwebrtcsink and dualwebrtcsrc.

Speaks the protocol of GStreamer's signalling server (JSON over WebSocket) and
prints one line of JSON per second, and a last one with "done": true:

  t                seconds since the connection stands
  state            of the connection
  frames           pictures decoded, or taken for encoding
  width, height    of the last one
  contrast         brightest less darkest luma of the last one
  audio_frames     blocks of sound, audio_peak the largest sample since the last line
  bitrate          of video, bit/s, RTP payloads, since the last line
  target_bitrate   what aiortc's encoder is set to, bit/s
  remb_sent        REMB messages sent, remb_sent_bitrate the last one's bit/s
  remb_seen        REMB messages received, remb_seen_bitrate the last one's bit/s
  lost             packets lost, as RTCP has it

A number on stdin: from then on REMB says at most so many bit/s; 0 takes that back.

Exit status: 0 if media flowed, 1 if not.
"""

import argparse
import asyncio
import fractions
import json
import math
import random
import struct
import sys
import time

import av
import barcode
import clip
import parts
import websockets
from aiortc import (
    AudioStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc import rate, rtcrtpreceiver, rtcrtpsender, rtp
from aiortc.jitterbuffer import JitterBuffer
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.sdp import candidate_from_sdp

WIDTH, HEIGHT = 640, 360
# Pictures of the pattern with bar codes.
PATTERNS = 60
SAMPLE_RATE, BLOCK = 48000, 960
# From the start to a connection, in seconds.
CONNECT_LIMIT = 30


class Counts:
    """What is counted between two lines, and what the last of each was."""

    def __init__(self):
        self.values = dict(
            frames=0, width=0, height=0, contrast=0, audio_frames=0, audio_peak=0,
            target_bitrate=0, remb_sent=0, remb_sent_bitrate=0, remb_seen=0,
            remb_seen_bitrate=0, lost=0, keyframe_requests=0,
        )
        self.bytes = 0
        self.cap = None

    def remb(self, way, bitrate):
        self.values[f"remb_{way}"] += 1
        self.values[f"remb_{way}_bitrate"] = bitrate


COUNTS = Counts()


def watch_aiortc():
    """aiortc has no statistics of REMB: its own functions are listened to."""
    estimate = rate.RemoteBitrateEstimator.add

    def add(self, *args, **kwargs):
        result = estimate(self, *args, **kwargs)
        COUNTS.bytes += kwargs["payload_size"]
        if result is None:
            return None
        bitrate, ssrcs = result
        if COUNTS.cap is not None:
            bitrate = min(bitrate, COUNTS.cap)
        COUNTS.remb("sent", bitrate)
        return bitrate, ssrcs

    rtcrtpreceiver.RemoteBitrateEstimator.add = add

    handle = rtcrtpsender.RTCRtpSender._handle_rtcp_packet

    async def handle_rtcp(self, packet):
        if isinstance(packet, rtp.RtcpPsfbPacket):
            if packet.fmt == rtp.RTCP_PSFB_APP:
                try:
                    bitrate, ssrcs = rtp.unpack_remb_fci(packet.fci)
                except ValueError:
                    pass
                else:
                    if self._ssrc in ssrcs:
                        COUNTS.remb("seen", bitrate)
            else:
                COUNTS.values["keyframe_requests"] += 1
        await handle(self, packet)

    rtcrtpsender.RTCRtpSender._handle_rtcp_packet = handle_rtcp


async def ask_again(receiver):
    """aiortc asks for a lost packet when it sees the next gap, and no more once 128
    packets have followed; its jitter buffer waits for it over 512 packets. This
    asks each 0.1 s, and gives up as aiortc stops asking."""
    own = "_RTCRtpReceiver__"
    setattr(receiver, own + "jitter_buffer", JitterBuffer(capacity=128, is_video=True))
    lost = getattr(receiver, own + "nack_generator").missing
    while True:
        await asyncio.sleep(0.1)
        streams = getattr(receiver, own + "remote_streams")
        retransmissions = getattr(receiver, own + "rtx_ssrc")
        ssrc = next((ssrc for ssrc in streams if ssrc not in retransmissions), None)
        if lost and ssrc is not None:
            await receiver._send_rtcp_nack(ssrc, sorted(lost))


def padded(rows, plane):
    """Rows of a picture as they lie in memory."""
    fill = b"\0" * (plane.line_size - len(rows[0]))
    return b"".join(row + fill for row in rows)


class Pattern(VideoStreamTrack):
    """Blocks of random brightness that move: something to encode."""

    def __init__(self):
        super().__init__()
        noise = random.Random(1)
        self.rows = []
        for y in range(HEIGHT):
            if y % 8 == 0:
                row = b"".join(
                    bytes([noise.randrange(16, 236)]) * 8 for _ in range(2 * WIDTH // 8)
                )
            self.rows.append(row)
        self.count = 0

    def picture(self):
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        at = self.count * 3 % WIDTH
        frame.planes[0].update(padded([r[at:at + WIDTH] for r in self.rows], frame.planes[0]))
        for plane in frame.planes[1:]:
            plane.update(b"\x80" * plane.buffer_size)
        self.count += 1
        return frame

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = self.picture()
        frame.pts, frame.time_base = pts, time_base
        return frame


def source(options):
    """What is sent."""
    pattern = Pattern()
    if options.video:
        width, height = map(int, options.size.split("x"))
        pictures = clip.read(options.video, width, height, options.pictures)
    elif options.bench:
        width, height = WIDTH, HEIGHT
        frames = (pattern.picture() for _ in range(PATTERNS))
        pictures = [[bytes(plane) for plane in frame.planes] for frame in frames]
    else:
        return pattern
    return clip.Clip(pictures, width, height, options.fps)


class Tone(AudioStreamTrack):
    """440 Hz at half of full scale."""

    def __init__(self):
        super().__init__()
        self.sent = 0
        self.start = time.monotonic()

    async def recv(self):
        await asyncio.sleep(max(0.0, self.start + self.sent / SAMPLE_RATE - time.monotonic()))
        samples = [
            int(16384 * math.sin(2 * math.pi * 440 * (self.sent + i) / SAMPLE_RATE))
            for i in range(BLOCK)
        ]
        frame = av.AudioFrame(format="s16", layout="mono", samples=BLOCK)
        frame.planes[0].update(struct.pack(f"<{BLOCK}h", *samples))
        frame.pts, frame.sample_rate = self.sent, SAMPLE_RATE
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self.sent += BLOCK
        return frame


class Counted:
    """A track that counts what the encoder takes."""

    @staticmethod
    def of(track):
        recv = track.recv

        async def counted():
            frame = await recv()
            COUNTS.values["frames"] += 1
            COUNTS.values["width"], COUNTS.values["height"] = frame.width, frame.height
            return frame

        track.recv = counted
        return track


def show(frame):
    """A line for dualstream-bench."""
    plane, now = frame.planes[0], time.time_ns()
    data = memoryview(plane)[:plane.line_size * (frame.height // 8)]
    number, captured = barcode.read(
        data, plane.line_size, frame.width, frame.height, now
    ) or (None, None)
    print(json.dumps({"line": "shown", "at": now, "number": number, "captured": captured}),
          flush=True)


async def take_video(track, stages=None):
    while True:
        frame = await track.recv()
        if stages:
            stages.taken(frame)
            show(frame)
        COUNTS.values["frames"] += 1
        COUNTS.values["width"], COUNTS.values["height"] = frame.width, frame.height
        if COUNTS.values["frames"] % 10 == 1:
            plane = frame.planes[0]
            data = bytes(plane)
            rows = [data[y * plane.line_size:][:frame.width] for y in range(0, frame.height, 8)]
            COUNTS.values["contrast"] = max(map(max, rows)) - min(map(min, rows))


async def take_audio(track):
    while True:
        frame = await track.recv()
        COUNTS.values["audio_frames"] += 1
        data = bytes(frame.planes[0])[: 2 * frame.samples]
        peak = max(map(abs, struct.unpack(f"<{len(data) // 2}h", data)))
        COUNTS.values["audio_peak"] = max(COUNTS.values["audio_peak"], peak)


async def until_end(coroutine):
    try:
        await coroutine
    except MediaStreamError:
        pass


def obey_stdin():
    loop = asyncio.get_running_loop()

    def read():
        line = sys.stdin.readline()
        if line:
            COUNTS.cap = int(line) or None
        else:
            loop.remove_reader(sys.stdin)

    try:
        loop.add_reader(sys.stdin, read)
    except PermissionError:
        pass  # a file, or /dev/null


def without_fec(sdp):
    """An offer without the SSRCs of FlexFEC, which aiortc does not know. It takes
    the SSRC of retransmissions only where a section has two in all, and drops
    the retransmissions otherwise."""
    fec, lines = set(), []
    for line in sdp.splitlines():
        group = line.removeprefix("a=ssrc-group:FEC-FR ")
        if group != line:
            fec.update(group.split()[1:])
        elif not line.startswith(tuple(f"a=ssrc:{ssrc} " for ssrc in fec)):
            lines.append(line)
    return "\r\n".join(lines) + "\r\n"


class Peer:
    def __init__(self, options):
        self.options = options
        self.stages = parts.listen() if options.bench else None
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.on("track", self.on_track)
        self.session = None
        self.tasks = []
        self.socket = self.sender = None
        self.sent_before = 0
        # That takes a second or two: before anybody waits.
        self.video = source(options) if options.role == "send" else None

    def on_track(self, track):
        if track.kind == "video":
            taken = take_video(track, self.stages)
            if self.options.ask_again:
                for receiver in self.connection.getReceivers():
                    if receiver.track is track:
                        self.tasks.append(asyncio.ensure_future(ask_again(receiver)))
        else:
            taken = take_audio(track)
        self.tasks.append(asyncio.ensure_future(until_end(taken)))

    # Signalling.

    async def say(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def describe(self):
        # All candidates are in it: aiortc gathers before it answers.
        local = self.connection.localDescription
        await self.say(
            "peer", sessionId=self.session, sdp={"type": local.type, "sdp": local.sdp}
        )

    async def signalling(self):
        async with websockets.connect(self.options.uri, max_size=1 << 20) as self.socket:
            async for text in self.socket:
                await self.on_message(json.loads(text))

    async def on_message(self, message):
        kind = message.get("type")
        if kind == "welcome":
            role = "producer" if self.options.role == "send" else "listener"
            await self.say(
                "setPeerStatus", roles=[role], meta={"name": "aiortc"}, peerId=message["peerId"]
            )
            if role == "listener":
                await self.say("list")
        elif kind == "list" and message["producers"]:
            await self.ask(message["producers"][0]["id"])
        elif kind == "peerStatusChanged" and "producer" in message["roles"]:
            await self.ask(message["peerId"])
        elif kind == "sessionStarted":
            self.session = message["sessionId"]
        elif kind == "startSession" and self.session is None:
            self.session = message["sessionId"]
            await self.offer()
        elif kind == "peer" and message["sessionId"] == self.session:
            await self.on_peer(message)
        elif kind == "error":
            print(f"the signalling server says: {message['details']}", file=sys.stderr)

    async def ask(self, producer):
        if self.options.role == "receive" and self.session is None:
            self.session = ""
            await self.say("startSession", peerId=producer)

    async def offer(self):
        self.sender = self.connection.addTrack(Counted.of(self.video))
        h264 = [
            codec
            for codec in RTCRtpSender.getCapabilities("video").codecs
            if codec.mimeType in ("video/H264", "video/rtx")
        ]
        self.connection.getTransceivers()[0].setCodecPreferences(h264)
        self.connection.addTrack(Tone())
        await self.connection.setLocalDescription(await self.connection.createOffer())
        await self.describe()

    async def on_peer(self, message):
        if "sdp" in message:
            sdp = message["sdp"]
            if sdp["type"] == "offer":
                sdp["sdp"] = without_fec(sdp["sdp"])
            await self.connection.setRemoteDescription(RTCSessionDescription(**sdp))
            if sdp["type"] == "offer":
                await self.connection.setLocalDescription(await self.connection.createAnswer())
                await self.describe()
        elif message.get("ice", {}).get("candidate"):
            ice = message["ice"]
            words = ice["candidate"].split(":", 1)[-1]
            if " tcp " in words.lower():
                return
            candidate = candidate_from_sdp(words)
            candidate.sdpMLineIndex = ice["sdpMLineIndex"]
            await self.connection.addIceCandidate(candidate)

    # Statistics.

    async def line(self, t, since, **more):
        values = COUNTS.values
        lost = 0
        for report in (await self.connection.getStats()).values():
            if report.type in ("inbound-rtp", "remote-inbound-rtp") and report.kind == "video":
                lost += report.packetsLost
            elif report.type == "outbound-rtp" and report.kind == "video":
                COUNTS.bytes += report.bytesSent - self.sent_before
                self.sent_before = report.bytesSent
        values["lost"] = lost
        if self.sender is not None:
            # Private, and named by Python's rule for that.
            encoder = getattr(self.sender, "_RTCRtpSender__encoder", None)
            values["target_bitrate"] = getattr(encoder, "target_bitrate", 0)
        bitrate = round(COUNTS.bytes * 8 / since)
        COUNTS.bytes = 0
        state = self.connection.connectionState
        print(json.dumps({"t": round(t, 1), "state": state, **values, "bitrate": bitrate, **more}),
              flush=True)
        values["audio_peak"] = 0
        if self.stages:
            sending = self.sender is not None
            self.stages.sample({
                "target-kbps": values["target_bitrate"] / 1e3,
                "media-bytes": self.sent_before,
            } if sending else {})

    async def run(self):
        obey_stdin()
        signalling = asyncio.ensure_future(self.signalling())
        end = time.monotonic() + CONNECT_LIMIT
        while self.connection.connectionState in ("new", "connecting") and not signalling.done():
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.05)
        start = last = time.monotonic()
        for second in range(1, self.options.seconds + 1):
            await asyncio.sleep(max(0.0, start + second - time.monotonic()))
            if self.connection.connectionState != "connected":
                break
            now = time.monotonic()
            await self.line(now - start, now - last)
            last = now
        await self.line(time.monotonic() - start, 1.0, done=True)
        if self.session and not signalling.done():
            await self.say("endSession", sessionId=self.session)
        await self.connection.close()
        signalling.cancel()
        try:
            await signalling
        except (asyncio.CancelledError, OSError, websockets.WebSocketException) as err:
            if str(err):
                print(err, file=sys.stderr)
        return COUNTS.values["frames"] > 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", required=True, help="ws://... of the signalling server")
    parser.add_argument("--role", required=True, choices=["send", "receive"])
    parser.add_argument("--bench", action="store_true",
                        help="read bar codes, and tell where pictures are (parts.py)")
    parser.add_argument("--ask-again", action="store_true",
                        help="for lost packets each 0.1 s, and wait for 128 packets, not 512")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--video", help="what to send, there and back, with bar codes; "
                        "default: a pattern")
    parser.add_argument("--size", default="1280x720", help="of --video, WxH")
    parser.add_argument("--fps", type=int, default=30, help="of --video")
    parser.add_argument("--pictures", type=int, default=300, help="of --video, in memory")
    options = parser.parse_args()
    watch_aiortc()
    sys.exit(0 if asyncio.run(Peer(options).run()) else 1)


if __name__ == "__main__":
    main()
