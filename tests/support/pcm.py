"""Writes H.264 of any structure, whose pictures carry their numbers, without an encoder.

Every picture is coded as it is (I_PCM), so the order of decoding, fields, key frames and what is
left out can be chosen freely, and each picture can be decoded by itself. Source of the syntax:
ITU-T H.264, section 7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.numbered import BITS, BRIGHT, DARK

ROWS = 32
MACROBLOCK = 16
WIDTH = BITS * MACROBLOCK
FRAME_NUMBER_BITS, ORDER_BITS = 8, 10


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in decode order. `number` is drawn; `shown` is its place since the last key."""

    number: int
    shown: int
    key: bool
    fields: bool


class _Bits:
    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, bits: int) -> _Bits:
        self.text += format(value, f"0{bits}b") if bits else ""
        return self

    def golomb(self, *values: int) -> _Bits:
        for value in values:
            code = format(value + 1, "b")
            self.text += "0" * (len(code) - 1) + code
        return self

    def aligned(self, bit: str = "0") -> bytes:
        text = self.text + bit * (-len(self.text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _unit(header: int, data: bytes) -> bytes:
    escaped = bytearray()
    zeros = 0
    for value in data:
        if zeros >= 2 and value <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(value)
        zeros = zeros + 1 if value == 0 else 0
    return b"\0\0\0\1" + bytes([header]) + bytes(escaped)


def parameters(reorder: int, *, frames_only: bool = False) -> bytes:
    """Return the parameter sets; pictures leave at most `reorder` places later than decoded."""
    bits = _Bits().put(77, 8).put(0, 8).put(40, 8)  # main profile
    bits.golomb(0, FRAME_NUMBER_BITS - 4, 0, ORDER_BITS - 4)
    bits.golomb(max(1, reorder)).put(0, 1)  # reference frames
    units = ROWS // MACROBLOCK if frames_only else ROWS // (2 * MACROBLOCK)
    bits.golomb(BITS - 1, units - 1).put(frames_only, 1)
    if not frames_only:
        bits.put(0, 1)  # no frame mixes both
    bits.put(1, 1).put(0, 1).put(1, 1)  # VUI follows
    bits.put(0, 8)  # it has nothing but the restriction: eight flags are 0
    bits.put(1, 1).put(1, 1).golomb(0, 0, 10, 10, reorder, max(1, reorder))
    sequence = _unit(0x67, bits.put(1, 1).aligned())
    pictures = _Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3).golomb(0, 0, 0)
    pictures.put(1, 1).put(0, 2)  # the deblocking filter may be switched off
    return sequence + _unit(0x68, pictures.put(1, 1).aligned())


def _macroblocks(number: int, rows: Sequence[int]) -> bytes:
    data = b""
    for first in range(0, len(rows), MACROBLOCK):
        for bit in range(BITS):
            luma = bytearray()
            for row in rows[first : first + MACROBLOCK]:
                drawn = BRIGHT if number >> bit & 1 else DARK
                luma += bytes([drawn if row < ROWS // 4 else 100]) * MACROBLOCK
            # mb_type I_PCM, then zero bits up to the next byte
            data += b"%b" % (bytes(luma) + bytes([128]) * 128)
    return data


def _slice(picture: Picture, frame_number: int, field: int | None, frames_only: bool) -> bytes:
    """Return one slice: of a frame (None), the top field (0) or the bottom field (1)."""
    instant = picture.key and not field
    bits = _Bits().golomb(0, 7, 0).put(frame_number, FRAME_NUMBER_BITS)
    if not frames_only:
        bits.put(field is not None, 1)
        if field is not None:
            bits.put(field, 1)
    if instant:
        bits.golomb(picture.number % 2)
    bits.put((2 * picture.shown + (field or 0)) % (1 << ORDER_BITS), ORDER_BITS)
    bits.put(0, 2 if instant else 1).golomb(0, 1)
    rows = range(ROWS) if field is None else range(field, ROWS, 2)
    pixels = _macroblocks(picture.number, rows)
    data, size = b"", MACROBLOCK * MACROBLOCK * 3 // 2
    for at in range(0, len(pixels), size):
        bits.golomb(25)
        data += bits.aligned() + pixels[at : at + size]
        bits = _Bits()
    return _unit(0x65 if instant else 0x61, data + b"\x80")


def packets(pictures: Sequence[Picture], reorder: int, *, frames_only: bool) -> list[list[bytes]]:
    """Return for each picture its packets: one, or one for each field."""
    result, frame_number = [], 0
    for picture in pictures:
        if picture.key:
            frame_number = 0
        head = parameters(reorder, frames_only=frames_only) if picture.key else b""
        fields = (0, 1) if picture.fields else (None,)
        parts = [_slice(picture, frame_number, field, frames_only) for field in fields]
        result.append([head + parts[0], *parts[1:]])
        frame_number = (frame_number + 1) % (1 << FRAME_NUMBER_BITS)
    return result
