"""The scenarios whose local file this host lacks: other hosts get some time to take them."""

from __future__ import annotations

import time

MISSING_SECONDS = 60.0
"""How long, in seconds, a scenario whose local file this host lacks is left to other hosts before
it is rejected."""


class MissingSources:
    """Remembers since when a scenario has been left to other hosts, and at which checkpoint.

    A new checkpoint shows that another host has the file: then the time starts again. Two threads
    call this: the worker's loop asks what to skip, the outcome writer whether to reject.
    """

    def __init__(self, patience: float = MISSING_SECONDS) -> None:
        self._patience = patience
        self._since: dict[int, tuple[float, int]] = {}  # time and checkpoint, by scenario

    def to_skip(self) -> list[int]:
        """Return the scenarios that are left to other hosts for now."""
        now = time.monotonic()
        known = list(self._since.items())
        for scenario_id, (since, _) in known:
            if now - since > 10 * self._patience:
                self._since.pop(scenario_id, None)
        return [one for one, (since, _) in known if now - since < self._patience]

    def time_is_up(self, scenario_id: int, checkpoint: int) -> bool:
        """Note that a source is missing. Returns whether other hosts have had their time."""
        now = time.monotonic()
        since, at = self._since.get(scenario_id, (now, checkpoint))
        if at != checkpoint:  # another host has the file, and ran the scenario meanwhile
            since = now
        self._since[scenario_id] = since, checkpoint
        return now - since >= self._patience

    def forget(self, scenario_id: int) -> None:
        """Forget an ended scenario, so that other hosts get the whole time if it starts again."""
        self._since.pop(scenario_id, None)
