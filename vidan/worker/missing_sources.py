"""TODO: say what this module is for."""

from __future__ import annotations

import time

MISSING_SECONDS = 60.0
"""So long a scenario whose local file this host lacks is left to others; then it is rejected."""


class MissingSources:
    """The scenarios whose local file this host lacks, and since when.

    Since then nobody has got on with it: the time begins anew with each checkpoint. One thread asks
    what to skip, another whether one is hopeless.
    """

    def __init__(self, patience: float = MISSING_SECONDS) -> None:
        self._patience = patience
        self._since: dict[int, tuple[float, int]] = {}  # and the checkpoint then

    def skip(self) -> list[int]:
        """Return the scenarios that are left to others for now."""
        now = time.monotonic()
        known = list(self._since.items())
        for scenario_id, (since, _) in known:
            if now - since > 10 * self._patience:
                self._since.pop(scenario_id, None)
        return [one for one, (since, _) in known if now - since < self._patience]

    def hopeless(self, scenario_id: int, checkpoint: int) -> bool:
        """Note that a source is missing. Returns whether others have had their time."""
        now = time.monotonic()
        since, at = self._since.get(scenario_id, (now, checkpoint))
        if at != checkpoint:  # somebody has the file, and had the scenario meanwhile
            since = now
        self._since[scenario_id] = since, checkpoint
        return now - since >= self._patience

    def forget(self, scenario_id: int) -> None:
        """Let who starts it again have the whole time."""
        self._since.pop(scenario_id, None)
