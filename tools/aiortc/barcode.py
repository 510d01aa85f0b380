# SPDX-License-Identifier: MPL-2.0
"""The bar code of dualstream-bench, as tools/clip/src/barcode.rs draws and reads it."""

import math

BLACK, WHITE = 24, 224
COLUMNS, ROWS = 24, 2
WIDTH, HEIGHT = 0.3, 64.0 / 720.0
MILLIS = 1 << 24


def edge(size, share, blocks, block):
    return min(math.floor(size * share * block / blocks + 0.5), size)


def blocks(width, height):
    """Of each bit and half: its columns and lines."""
    for bit in range(COLUMNS * ROWS):
        column, row = bit % COLUMNS, 2 * (bit // COLUMNS)
        left, right = (edge(width, WIDTH, COLUMNS, column + i) for i in (0, 1))
        for half in (0, 1):
            top, bottom = (edge(height, HEIGHT, 2 * ROWS, row + half + i) for i in (0, 1))
            yield bit, half, (left, right), (top, bottom)


def check(number, millis):
    crc = 0
    for byte in number.to_bytes(2, "little") + millis.to_bytes(3, "little"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (7 if crc & 0x80 else 0)) & 0xFF
    return crc


def write(luma, stride, width, height, number, nanos):
    """Into a bytearray: the number modulo 2^16, and the time since 1970."""
    number %= 1 << 16
    millis = (nanos + 500_000) // 1_000_000 % MILLIS
    bits = number ^ number >> 1 | (millis ^ millis >> 1) << 16 | check(number, millis) << 40
    for bit, half, (left, right), (top, bottom) in blocks(width, height):
        sample = WHITE if (bits >> bit & 1) == (half == 0) else BLACK
        for y in range(top, bottom):
            luma[y * stride + left:y * stride + right] = bytes([sample]) * (right - left)


def plain(value):
    for shift in (16, 8, 4, 2, 1):
        value ^= value >> shift
    return value


def read(luma, stride, width, height, now):
    """Number and time in ns since 1970, nearest to `now`; None: not clear."""
    means, bits = [], 0
    for bit, half, (left, right), (top, bottom) in blocks(width, height):
        dx, dy = (right - left) // 4, (bottom - top) // 4
        rows = [
            luma[y * stride + left + dx:y * stride + right - dx]
            for y in range(top + dy, bottom - dy)
        ]
        count = sum(map(len, rows))
        if not count:
            return None
        means.append(sum(map(sum, rows)) // count)
        if half:
            difference = means[-2] - means[-1]
            if abs(difference) < (WHITE - BLACK) // 2:
                return None
            bits |= (difference > 0) << bit
    number, millis = plain(bits & 0xFFFF), plain(bits >> 16 & MILLIS - 1)
    if check(number, millis) != bits >> 40:
        return None
    now_ms = now // 1_000_000
    back = (now_ms - millis) % MILLIS
    captured = now_ms - back if back < MILLIS // 2 else now_ms + MILLIS - back
    return number, captured * 1_000_000
