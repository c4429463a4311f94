"""What a worker process is at, slot by slot, in memory that it shares with its supervisor.

The supervisor reads it when the process has died (which scenarios' code it ran, under which id it
was registered) and while it lives (how long a call has taken): no message has to get through.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from uuid import UUID

_UUID = struct.Struct("16s")
_INTEGER = struct.Struct("q")
_TIME = struct.Struct("d")
_HEADER = 32  # worker id, when the database last answered, how many slots there are
_SLOT = 48  # scenario id, a clock for each kind of call, then the run's time limit and its end
_LIMIT, _DEADLINE = 32, 40
_NONE = bytes(_SLOT - 8)


class Call(IntEnum):
    """What a slot may be inside of; the number is the place of its clock."""

    DECODER = 1
    DETECTOR = 2
    PROGRESS = 3  # since the task last said that it gets on


class SlotBoard:
    """A page of shared memory: the worker's id and, for each slot, a scenario and its clocks.

    It has room for `slots`, of which the worker uses as many as it is asked to (`in_use`).

    Three are of calls, one is of the run: when its time is up, if it has a limit. Times are
    `time.monotonic()`, which all processes of a host share; 0 means: not inside of one, no limit.
    """

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._memory = mmap.mmap(fd, _HEADER + _SLOT * slots)

    @classmethod
    def create(cls, slots: int) -> SlotBoard:
        """Make a board for a child to be started; pass its `fd` on."""
        size = _HEADER + _SLOT * slots
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("slots")
            os.ftruncate(fd, size)
            return cls(fd, slots)
        with tempfile.TemporaryFile() as file:
            # written, not only made so long: on a full disk the memory of a hole kills its reader
            file.write(bytes(size))
            file.flush()
            return cls(os.dup(file.fileno()), slots)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
        os.close(self.fd)

    @property
    def worker_id(self) -> UUID | None:
        """The id under which the process is registered now."""
        raw = _UUID.unpack_from(self._memory, 0)[0]
        return UUID(bytes=raw) if any(raw) else None

    @worker_id.setter
    def worker_id(self, worker_id: UUID | None) -> None:
        _UUID.pack_into(self._memory, 0, bytes(16) if worker_id is None else worker_id.bytes)

    def database_answered(self) -> None:
        """Note that the database has answered just now."""
        _TIME.pack_into(self._memory, 16, time.monotonic())

    def database_silent_for(self) -> float:
        """Return the seconds since the database last answered this process."""
        return time.monotonic() - float(_TIME.unpack_from(self._memory, 16)[0])

    @property
    def in_use(self) -> int:
        """How many slots the process has now; 0: it has not said so yet."""
        return int(_INTEGER.unpack_from(self._memory, 24)[0])

    @in_use.setter
    def in_use(self, slots: int) -> None:
        _INTEGER.pack_into(self._memory, 24, slots)

    def take(self, slot: int, scenario_id: int) -> None:
        """Note that a slot runs a scenario's code from now on."""
        self._clear(slot)
        _INTEGER.pack_into(self._memory, _HEADER + _SLOT * slot, scenario_id)

    def leave(self, slot: int) -> None:
        """Note that a slot runs nobody's code any more."""
        _INTEGER.pack_into(self._memory, _HEADER + _SLOT * slot, 0)
        self._clear(slot)

    def clear(self) -> None:
        """Note that no slot runs anybody's code: what still runs is not to blame for the end."""
        for slot in range(self.slots):
            self.leave(slot)

    def executing(self) -> list[int]:
        """Return the scenarios whose code the process runs, or ran when it died."""
        return [found for slot in range(self.slots) if (found := self._scenario(slot))]

    @contextmanager
    def inside(self, slot: int, call: Call) -> Iterator[None]:
        """Run the clock of a call while the block lasts."""
        self.mark(slot, call)
        try:
            yield
        finally:
            _TIME.pack_into(self._memory, self._clock(slot, call), 0.0)

    def mark(self, slot: int, call: Call) -> None:
        """Start the clock of a call anew."""
        _TIME.pack_into(self._memory, self._clock(slot, call), time.monotonic())

    def stalled(self, limit: float) -> tuple[int, Call] | None:
        """Return the scenario and the call that has lasted longest, if for over `limit` s."""
        before = time.monotonic() - limit
        calls = [
            (since, scenario_id, call)
            for slot in range(self.slots)
            for call in Call
            if (scenario_id := self._scenario(slot))
            and 0 < (since := self._since(slot, call)) < before
            # twice the same: as for `overdue`
            and (scenario_id, since) == (self._scenario(slot), self._since(slot, call))
        ]
        return min(calls)[1:] if calls else None

    def limit(self, slot: int, seconds: float) -> None:
        """Let the time of the slot's run be up in so many seconds."""
        place = _HEADER + _SLOT * slot
        _TIME.pack_into(self._memory, place + _LIMIT, seconds)
        _TIME.pack_into(self._memory, place + _DEADLINE, time.monotonic() + seconds)

    def overdue(self) -> tuple[int, float] | None:
        """Return a scenario whose time is up, and its limit in seconds."""
        now = time.monotonic()
        for slot in range(self.slots):
            before = self._run(slot)
            scenario_id, limit, deadline = before
            # twice the same: else one that ended just now would be taken for the next of its slot
            if scenario_id and 0 < deadline < now and before == self._run(slot):
                return scenario_id, limit
        return None

    def _run(self, slot: int) -> tuple[int, float, float]:
        place = _HEADER + _SLOT * slot
        return (
            self._scenario(slot),
            float(_TIME.unpack_from(self._memory, place + _LIMIT)[0]),
            float(_TIME.unpack_from(self._memory, place + _DEADLINE)[0]),
        )

    def _since(self, slot: int, call: Call) -> float:
        return float(_TIME.unpack_from(self._memory, self._clock(slot, call))[0])

    def _scenario(self, slot: int) -> int:
        return int(_INTEGER.unpack_from(self._memory, _HEADER + _SLOT * slot)[0])

    def _clear(self, slot: int) -> None:
        place = _HEADER + _SLOT * slot + 8
        self._memory[place : place + len(_NONE)] = _NONE

    @staticmethod
    def _clock(slot: int, call: Call) -> int:
        return _HEADER + _SLOT * slot + 8 * call
