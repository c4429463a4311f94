"""Tells which packets of an H.264 stream are second fields: such a packet is no picture of its own.

An interlaced picture may be coded as two fields, and a container may keep each field in a packet of
its own, as MPEG-TS and raw streams do. The headers of parameter sets and slices say so. Source:
ITU-T H.264, sections 7.3.2.1, 7.3.2.2 and 7.3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import Packet, VideoStream

HEADER_BYTES = 40
"""Bytes at the beginning of a slice in which the needed part of its header lies."""

UNIT_BYTES = 1024
"""Bytes of a unit that are looked at: parameters of a sequence may have long lists."""

SAME_PICTURE = Fraction(3, 4)
"""Where a field can't be read, it belongs to the field before it if it follows within this share
of the time between two pictures.
"""

SLICES, INSTANT, SEQUENCE, PICTURES = (1, 2, 5), 5, 7, 8
"""Types of units: slices, those of an instant refresh, parameters of sequences and of pictures."""

MAX_MACROBLOCK, MAX_SLICE_TYPE = 139_264, 9
"""Largest numbers that a sound slice may begin with."""

HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose parameter sets say more about colours."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What a slice's header needs of the parameters of its sequence."""

    frame_number_bits: int
    planes: bool
    frames_only: bool


@dataclass(frozen=True, slots=True)
class _Field:
    frame_number: int
    bottom: bool
    instant: bool


class _Bits:
    """Reads the bits of a unit, most significant first. Raises IndexError at its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # bytes that keep start codes out of the data
        self._bits = bin(int.from_bytes(b"\1" + data, "big"))[3:]
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        bits = self._bits[self._at : self._at + count]
        if len(bits) < count:
            raise IndexError("the unit ends here")
        self._at += count
        return int(bits, 2) if bits else 0

    def golomb(self) -> int:
        """Return the next number in Exp-Golomb code. A signed one has the same length."""
        end = self._bits.find("1", self._at)
        if end < 0:
            raise IndexError("the unit ends here")
        zeros = end - self._at
        self._at = end + 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Return the next signed number in Exp-Golomb code."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


class Fields:
    """Takes the packets of a stream in decode order; only those of H.264 may be second fields."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._reads = codec == "h264"
        self._sequences: dict[int, _Sequence] = {}
        self._of_pictures: dict[int, int] = {}  # the sequence of each set of picture parameters
        self._length = 0  # bytes that tell a unit's size; 0: start codes lie between units
        self._open = False  # whether the last packet may be a first field
        self._first: _Field | None = None  # that field, if it could be read
        self._stamp: int | None = None  # of the last picture
        self._step = 0  # between two pictures of two fields
        if self._reads and extradata:
            self._configure(bytes(extradata))

    @property
    def interlaced(self) -> bool:
        """Whether the stream may hold fields, according to what was read so far."""
        return any(not one.frames_only for one in self._sequences.values())

    def is_second(self, packet: Packet[VideoStream]) -> bool:
        """Whether the packet is the second field of a picture whose first field came before it."""
        if not self._reads or not (packet.is_keyframe or self.interlaced):
            return False
        known, field = self._field(bytes(packet))
        stamp = packet.dts if packet.dts is not None else packet.pts
        alone = field is not None or not known
        if self._open and alone:
            pair = field is not None and self._first is not None
            if _pair(self._first, field) if pair else self._is_near(stamp):
                self._open = False
                return True
        if alone and self._first is not None and stamp is not None and self._stamp is not None:
            self._step = stamp - self._stamp
        self._open, self._first, self._stamp = alone, field, stamp
        return False

    def _is_near(self, stamp: int | None) -> bool:
        """Judge a field by its stamp, where it or the one before it can't be read."""
        if self._stamp is None:
            return False
        return stamp is None or 0 < stamp - self._stamp < self._step * SAME_PICTURE

    def _field(self, data: bytes) -> tuple[bool, _Field | None]:
        """Return (whether a slice could be read, the one field in the packet)."""
        found: dict[bool, _Field] = {}
        known = False
        for unit in self._units(data):
            try:
                kind = unit[0] & 0x1F
                if kind in SLICES:
                    if not self.interlaced:
                        return True, None
                    field = self._slice(kind, unit)
                    known = True
                    if field is None:
                        return True, None
                    found.setdefault(field.bottom, field)
                else:
                    self._parameters(kind, unit)
            except (IndexError, KeyError):
                continue  # a damaged header
        return known, next(iter(found.values())) if len(found) == 1 else None

    def _units(self, data: bytes) -> Iterator[bytes]:
        at = 0
        if self._length:
            while at + self._length < len(data):
                size = int.from_bytes(data[at : at + self._length], "big")
                at += self._length
                yield data[at : at + min(size, UNIT_BYTES)]
                at += size
            return
        at = data.find(b"\0\0\1")
        while at >= 0:
            end = data.find(b"\0\0\1", at + 3)
            yield data[at + 3 : min(at + 3 + UNIT_BYTES, end if end >= 0 else len(data))]
            at = end

    def _slice(self, kind: int, unit: bytes) -> _Field | None:
        bits = _Bits(unit[1:HEADER_BYTES])
        first, what = bits.golomb(), bits.golomb()  # its first macroblock, its type
        if first > MAX_MACROBLOCK or what > MAX_SLICE_TYPE:
            raise IndexError("the unit is damaged")
        sequence = self._sequences[self._of_pictures[bits.golomb()]]
        if sequence.planes:
            bits.take(2)
        number = bits.take(sequence.frame_number_bits)
        if sequence.frames_only or not bits.take(1):
            return None
        return _Field(number, bool(bits.take(1)), kind == INSTANT)

    def _parameters(self, kind: int, unit: bytes) -> None:
        if kind == PICTURES:
            bits = _Bits(unit[1:])
            self._of_pictures[bits.golomb()] = bits.golomb()
        elif kind == SEQUENCE:
            number, sequence = _sequence(_Bits(unit[1:]))
            self._sequences[number] = sequence

    def _configure(self, extradata: bytes) -> None:
        """Read the header of the stream (ISO/IEC 14496-15, section 5.3.3.1, or start codes)."""
        units: list[bytes] = []
        if extradata[0] == 1 and len(extradata) > 6:
            self._length = (extradata[4] & 3) + 1
            at = 5
            for mask in (0x1F, 0xFF):
                count = extradata[at] & mask if at < len(extradata) else 0
                at += 1
                for _ in range(count):
                    size = int.from_bytes(extradata[at : at + 2], "big")
                    units.append(extradata[at + 2 : at + 2 + size])
                    at += 2 + size
        else:
            units = list(self._units(extradata))
        for unit in units:
            try:
                self._parameters(unit[0] & 0x1F, unit)
            except (IndexError, KeyError):
                continue


def _pair(first: _Field | None, second: _Field | None) -> bool:
    """Whether two fields in a row are one picture."""
    if first is None or second is None:
        return False
    same = first.frame_number == second.frame_number and first.bottom != second.bottom
    return same and (first.instant or not second.instant)


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Read the parameters of a sequence. Returns (their number, what is needed of them)."""
    profile = bits.take(8)
    bits.take(16)
    number = bits.golomb()
    planes = False
    if profile in HIGH_PROFILES:
        chroma = bits.golomb()
        planes = chroma == 3 and bool(bits.take(1))
        bits.golomb(), bits.golomb(), bits.take(1)
        if bits.take(1):
            for place in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _pass_scaling_list(bits, 16 if place < 6 else 64)
    frame_number_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1), bits.golomb(), bits.golomb()
        for _ in range(min(bits.golomb(), 256)):
            bits.golomb()
    bits.golomb(), bits.take(1), bits.golomb(), bits.golomb()
    return number, _Sequence(frame_number_bits, planes, bool(bits.take(1)))


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
