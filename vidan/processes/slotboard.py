"""The slot board: memory in which a worker process shows its supervisor what each slot does.

After the process has died, the supervisor reads which scenarios' code it ran and under which id it
was registered; while the process lives, how long a call has taken. Whether a process has left or
died stands here too: its exit code may be that of any code that it ran. No message has to arrive.
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
_HEADER = 40  # worker id, time of the database's last answer, number of slots, how it ended
_SLOT = 48  # scenario id, a clock per kind of call, the run's time limit, its deadline
_LIMIT, _DEADLINE = 32, 40
_NONE = bytes(_SLOT - 8)


class Call(IntEnum):
    """The calls whose duration is watched; the number is the place of the call's clock."""

    DECODER = 1
    DETECTOR = 2
    PROGRESS = 3  # since the task last called `run.progress()`


class Ended(IntEnum):
    """How a process has ended, by its own account."""

    DIED = 0  # it has said nothing
    LEFT = 1  # it has handed over all that it held
    RETIRED = 2  # the same, and it was asked not to come back
    HOPELESS = 3  # it could not start, and another process could not either
    LOADING = 4  # it has died while it imported its app


class SlotBoard:
    """A page of shared memory: the worker's id and, for each slot, a scenario and its clocks.

    It has room for `slots` slots, of which the worker uses `in_use`. A slot has one clock for each
    kind of call, and the deadline of its run if the run has a time limit. Times are
    `time.monotonic()`, which all processes of a host share; 0 means no call, or no limit.
    """

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._memory = mmap.mmap(fd, _HEADER + _SLOT * slots)

    @classmethod
    def create(cls, slots: int) -> SlotBoard:
        """Make a board for a child to be started, which gets the board's `fd`."""
        size = _HEADER + _SLOT * slots
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("slots")
            os.ftruncate(fd, size)
            return cls(fd, slots)
        with tempfile.TemporaryFile() as file:
            # written, not truncated to this size: on a full disk, reading a hole kills the process
            file.write(bytes(size))
            file.flush()
            return cls(os.dup(file.fileno()), slots)

    def close(self) -> None:
        """Unmap the memory and close the descriptor."""
        self._memory.close()
        os.close(self.fd)

    def detach(self) -> None:
        """Go on with empty memory of this process's own: what it writes is shown to nobody."""
        self._memory = mmap.mmap(-1, _HEADER + _SLOT * self.slots)

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
        """How many slots the process has now; 0: it has not written it yet."""
        return int(_INTEGER.unpack_from(self._memory, 24)[0])

    @in_use.setter
    def in_use(self, slots: int) -> None:
        _INTEGER.pack_into(self._memory, 24, slots)

    @property
    def ended(self) -> Ended:
        """How the process has ended, or DIED while it has not said so."""
        return Ended(_INTEGER.unpack_from(self._memory, 32)[0])

    @ended.setter
    def ended(self, how: Ended) -> None:
        _INTEGER.pack_into(self._memory, 32, how)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Note, while the block lasts, that the process imports its app."""
        self.ended = Ended.LOADING
        try:
            yield
        finally:
            self.ended = Ended.DIED

    def take(self, slot: int, scenario_id: int) -> None:
        """Note that a slot runs a scenario's code from now on."""
        self._clear(slot)
        _INTEGER.pack_into(self._memory, _HEADER + _SLOT * slot, scenario_id)

    def leave(self, slot: int) -> None:
        """Note that a slot runs no scenario's code any more."""
        _INTEGER.pack_into(self._memory, _HEADER + _SLOT * slot, 0)
        self._clear(slot)

    def clear(self) -> None:
        """Note that no slot runs a scenario's code: none is charged for the end of the process."""
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
        """Start the clock of a call again."""
        _TIME.pack_into(self._memory, self._clock(slot, call), time.monotonic())

    def stalled(self, limit: float) -> tuple[int, Call] | None:
        """Return the scenario and the call that has lasted longest, if over `limit` seconds."""
        before = time.monotonic() - limit
        calls = [
            (since, scenario_id, call)
            for slot in range(self.slots)
            for call in Call
            if (scenario_id := self._scenario(slot))
            and 0 < (since := self._since(slot, call)) < before
            # read twice, as in `overdue`
            and (scenario_id, since) == (self._scenario(slot), self._since(slot, call))
        ]
        return min(calls)[1:] if calls else None

    def limit(self, slot: int, seconds: float) -> None:
        """Set the time limit of the slot's run, in seconds from now."""
        place = _HEADER + _SLOT * slot
        _TIME.pack_into(self._memory, place + _LIMIT, seconds)
        _TIME.pack_into(self._memory, place + _DEADLINE, time.monotonic() + seconds)

    def overdue(self) -> tuple[int, float] | None:
        """Return a scenario that is over its time limit, and the limit in seconds."""
        now = time.monotonic()
        for slot in range(self.slots):
            first = self._run(slot)
            scenario_id, limit, deadline = first
            # Read twice: between two reads a run may end, and the next one begin in its slot.
            if scenario_id and 0 < deadline < now and first == self._run(slot):
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
