"""Numbers pictures in the order in which they leave the decoder.

While the decoder is sound, a picture's number is the count of those that left before it: a
container may keep timestamps in the order of decoding, equal ones, or none. How many pictures there
are is known from packets, so a picture that never leaves keeps a number, which becomes a gap. Where
pictures were lost, timestamps tell the places of the others if they rise on leaving; otherwise a
lost picture takes its place in the order of decoding, which may misplace a few pictures beside it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vidan.video.timeline import PASSED, Entry, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable

LATE = 17
"""Most pictures that leave before one that was decoded earlier (H.264 allows 16 and itself)."""

MAX_INSIDE = 128
"""Most packets whose pictures are waited for; pictures of older packets never leave."""

MIN_RUN_UP = 64
"""Fewest pictures between the restart point and the frame at which a run resumes."""

RUN_UP_KEYS = 3
"""Key frames, at least, from the restart point to that frame."""

NOT_NEEDED = Entry(0, 0, number=PASSED)
"""The place of pictures that are not shown: before the first frame, or too late after damage."""

Restart = tuple[int, int]
"""Where a resume begins to decode: the ordinal of a key frame's packet, and that frame's number."""


class Counting:
    """Follows the pictures into the decoder and out of it, and gives each its place.

    `first` is the number of the first picture. At `begin`, the restart point of a resumed run,
    pictures are not needed until that of the key frame has left. `known`: a restart point of an
    earlier run.
    """

    def __init__(
        self,
        timeline: Timeline,
        first: int = 0,
        begin: Restart | None = None,
        known: Restart | None = None,
    ) -> None:
        self.uncertain: set[int] = set()
        """Lost numbers whose place is not known: other pictures may have been there."""
        self.rises = True
        """Whether timestamps of the pictures that left have risen so far."""
        self._timeline = timeline
        self._next = first
        self._begin = begin
        self._key: Entry | None = None  # the picture of the restart point, until it has left
        self._before_key: list[Entry] = []  # what left before it
        self._leading = 0  # pictures still to come that lead the restart point
        self._open: dict[int, Entry] = {}  # in the decoder, in decode order
        self._leads: dict[int, Entry] = {}  # the same for those that the decoder may never give
        self._lost: set[int] = set()  # numbers of lost pictures
        self._hurt: set[int] = set()  # groups with damage
        self._fell: dict[int, bool] = {}
        """The last groups, as far as they were sound: whether timestamps fell in them."""
        self._last: Entry | None = None  # the last picture that left
        self._keys: deque[tuple[int, Restart]] = deque()
        """Restart points, each with its group."""
        if (earlier := begin or known) is not None:
            self._keys.append((-1, earlier))

    # --- what the decoder tells

    def entered(self, entry: Entry) -> None:
        """Note that a picture's packet enters the decoder, for the first time or again."""
        if entry.done:
            return
        if self._begin is not None and entry.ordinal == self._begin[0]:
            self._key = entry
        elif self._leading and not entry.left and entry.order not in self._open:
            self._leading -= 1
            entry.done = True
            return
        inside = self._leads if entry.leads else self._open
        inside[entry.order] = entry
        if len(inside) > MAX_INSIDE:
            del inside[next(iter(inside))]

    def restarted(self) -> None:
        """Note that a fresh decoder takes some packets again."""
        self._open.clear()
        self._leads.clear()
        self._last = None

    def left(self, entry: Entry) -> None:
        """Note that a picture has left the decoder."""
        entry.left = True
        self._open.pop(entry.order, None)
        self._leads.pop(entry.order, None)
        before, self._last = self._last, entry
        if not self._is_sound(entry) or entry.leads:
            return
        fell = before is not None and entry.rank < before.rank and self._is_sound(before)
        self._fell[entry.group] = fell or self._fell.get(entry.group, False)
        self.rises &= not fell
        if len(self._fell) > MAX_INSIDE:
            del self._fell[min(self._fell)]

    def hurt(self, entry: Entry) -> None:
        """Note damage at a picture: up to the next key frames the order of leaving may be wrong."""
        self._hurt.add(entry.group)
        self._hurt = {group for group in self._hurt if group >= entry.group - 8}

    @property
    def oldest(self) -> Entry | None:
        """The picture that has been in the decoder for the longest time."""
        return next(iter(self._open.values()), None)

    def inside(self) -> Iterable[Entry]:
        """Return the pictures in the decoder."""
        return self._open.values()

    # --- places

    def place(self, entry: Entry, waiting: int, *, ended: bool, patient: bool) -> Entry | None:
        """Return the place of the first of `waiting` pictures that left; None: not known yet.

        `ended`: nothing more will leave. `patient`: wait for all that was decoded earlier.
        """
        if self._begin is not None:
            return self._before_begin(entry)
        if entry.number == PASSED or entry.done:
            entry.done = True
            return NOT_NEEDED
        number = self._number(entry, waiting, ended, patient)
        if number is None:
            return None
        if number < self._next:
            entry.done = True
            return NOT_NEEDED
        place = self._timeline.place(number)
        if place is None:
            return None
        entry.done = True
        if entry.key and entry.ordinal >= 0 and self._is_sound(entry):
            self._keys.append((entry.group, (entry.ordinal, number)))
        self._next = number + 1
        self._lost = {one for one in self._lost if one > number} if self._lost else self._lost
        return place

    def sorts(self, entry: Entry) -> bool:
        """Whether pictures that left with this one may be out of order, and timestamps tell it."""
        return not self._is_sound(entry) and self._trusts(entry)

    def _number(self, entry: Entry, waiting: int, ended: bool, patient: bool) -> int | None:
        if entry.number is None:
            return None
        self._skip_lost()
        oldest = self.oldest
        if patient and oldest is not None and oldest.order < entry.order:
            return None
        if entry.number == self._next:
            return self._next
        behind = [
            one
            for one in self._open.values()
            if one.number != PASSED and (one.rank < entry.rank or one.order < entry.order)
        ]
        if behind and not ended and (patient or waiting <= LATE):
            return None
        return self._after_loss(entry, [*self._leads.values(), *behind])

    def _skip_lost(self) -> None:
        while self._next in self._lost or self._timeline.in_hole(self._next):
            self._next += 1

    def _after_loss(self, entry: Entry, inside: list[Entry]) -> int:
        assert entry.number is not None
        if self._trusts(entry):
            lost = [one for one in inside if one.rank < entry.rank]
            self._lose(lost)
            return self._next if self._is_sound(entry) and not lost else entry.number
        lost = [one for one in inside if one.order < entry.order]
        for one in sorted(lost, key=lambda one: one.order):
            number = max(self._next, self._timeline.index(one))
            while number in self._lost:
                number += 1
            self._lost.add(number)
            if not one.leads:
                self.uncertain.add(number)
        self._lose(lost)
        self._skip_lost()
        return self._next

    def _lose(self, lost: list[Entry]) -> None:
        for one in lost:
            one.done = True
            self._open.pop(one.order, None)
            self._leads.pop(one.order, None)
            if not one.leads:
                self.hurt(one)

    def _is_sound(self, entry: Entry) -> bool:
        """Whether there is no damage near a picture: it also mixes the groups on both sides."""
        around = (entry.group - 1, entry.group, entry.group + 1)
        return not self._hurt or self._hurt.isdisjoint(around)

    def _trusts(self, entry: Entry) -> bool:
        """Whether timestamps rose in the last two sound groups up to that of a picture."""
        sound = sorted(group for group in self._fell if group <= entry.group)[-2:]
        return not any(self._fell[group] for group in sound)

    # --- restart points

    def lacks_key(self) -> bool:
        """Whether the picture of the restart point has not left the decoder."""
        return self._begin is not None

    def restart(self, frame: int) -> Restart | None:
        """Return where a resume at that frame begins to decode; None: at the first packet."""
        keys = self._keys
        while len(keys) > RUN_UP_KEYS and (
            keys[RUN_UP_KEYS][1][1] <= frame and frame - keys[1][1][1] >= MIN_RUN_UP
        ):
            keys.popleft()
        enough = len(keys) >= RUN_UP_KEYS and keys[RUN_UP_KEYS - 1][1][1] <= frame
        first = keys[0] if keys else None
        if first is None or (first[0] >= 0 and not enough):
            return None
        return first[1]

    def _before_begin(self, entry: Entry) -> Entry | None:
        """Return the place of a picture up to the one of the restart point."""
        assert self._begin is not None
        entry.done = True
        if entry is not self._key:
            self._before_key.append(entry)
            return NOT_NEEDED
        number = self._begin[1]
        place = self._timeline.place(number)
        if place is None:
            entry.done = False
            return None
        led = number - self._timeline.index(entry)
        self._leading = max(0, led - sum(one.order > entry.order for one in self._before_key))
        self._begin, self._key, self._before_key = None, None, []
        inside = sorted((*self._leads.values(), *self._open.values()), key=lambda one: one.order)
        for one in [one for one in inside if one.order > entry.order]:
            if self._leading:
                self._leading -= 1
                one.done = True
                self._open.pop(one.order, None)
                self._leads.pop(one.order, None)
        self._next = number + 1
        return place
