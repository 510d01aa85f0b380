# SPDX-License-Identifier: MPL-2.0
"""A clip as the camera of dualstream-bench: there and back, each picture with its bar
code. aiortc's MediaPlayer with `loop` begins again at time 0 after the last picture:
all that follows is late by then, is sent as fast as it can be coded, and its RTP
timestamps jump back."""

import asyncio
import fractions
import time

import av
import barcode
from aiortc import VideoStreamTrack

CLOCK = 90_000


def rows(plane, stride):
    """A plane with lines of another length."""
    data = bytes(plane)
    size = min(plane.line_size, stride)
    fill = bytes(stride - size)
    return b"".join(
        data[y * plane.line_size:y * plane.line_size + size] + fill for y in range(plane.height)
    )


def read(file, width, height, most):
    """The first pictures, scaled: of each its planes as aiortc's frames have them."""
    shape = [plane.line_size for plane in av.VideoFrame(width, height, "yuv420p").planes]
    pictures = []
    with av.open(file) as container:
        for frame in container.decode(video=0):
            frame = frame.reformat(width, height, "yuv420p")
            pictures.append([rows(p, stride) for p, stride in zip(frame.planes, shape)])
            if len(pictures) == most:
                break
    if not pictures:
        raise ValueError(f"no pictures in {file}")
    return pictures


class Clip(VideoStreamTrack):
    """Of pictures as `read` gives them."""

    def __init__(self, pictures, width, height, fps):
        super().__init__()
        self.width, self.height, self.fps = width, height, fps
        self.pictures = pictures + pictures[-2:0:-1]
        self.start = self.number = None

    async def wait(self):
        """For the next picture that is not too late, as a camera has it."""
        now = time.monotonic()
        if self.start is None:
            self.start, self.number = now, 0
            return
        due = int((now - self.start) * self.fps)
        self.number = max(self.number + 1, due)
        await asyncio.sleep(max(0.0, self.start + self.number / self.fps - now))

    async def recv(self):
        await self.wait()
        frame = av.VideoFrame(self.width, self.height, "yuv420p")
        luma, *chroma = self.pictures[self.number % len(self.pictures)]
        luma = bytearray(luma)
        stride = frame.planes[0].line_size
        barcode.write(luma, stride, self.width, self.height, self.number, time.time_ns())
        for plane, data in zip(frame.planes, [luma, *chroma]):
            plane.update(bytes(data))
        frame.pts = self.number * CLOCK // self.fps
        frame.time_base = fractions.Fraction(1, CLOCK)
        return frame
