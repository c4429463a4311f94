"""What must hold after every step, whatever the model expects.

Each invariant quotes the sentence of the architecture that it proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from sqlalchemy import RowMapping

from vidan.domain.status import ALLOWED, ENDED, HELD, Status

Rows = Mapping[int, RowMapping]

_STARTS = {"started", "from the beginning", "retry asked for"}
"""The reasons that a start by a user leaves in the history."""
_WANTS_TO_RUN = {Status.INIT_STARTUP, Status.INIT_STARTUP_PROCESSING, Status.ACTIVE}


class Invariants:
    """Checks all rows, and compares them with those before the step."""

    def check(self, before: Rows, rows: Rows) -> None:
        """Check every invariant on every row."""
        for row in rows.values():
            self.every_frame_is_stored_once_and_none_beyond(row)
            self.state_moves_with_the_checkpoint(row)
            self.every_change_is_allowed_and_logged_in_a_chain(row)
            self.a_stop_is_never_undone(row)
            self.one_that_should_run_is_held_or_waits_in_the_queue(row)
            self.budgets_that_are_spent_have_failed(row)
            self.deaths_are_charged_once_each(row)
            self.results_are_of_completed_ones(row)
            self.announcements_are_of_waiting_ones(row)
            if row["id"] in before:
                self.epoch_only_rises(before[row["id"]], row)
                self.checkpoint_never_goes_back(before[row["id"]], row)

    def every_frame_is_stored_once_and_none_beyond(self, row: RowMapping) -> None:
        """Every frame is stored exactly once, whichever process dies (the third sentence).

        Each frame before the checkpoint is a prediction or lies in a gap, never both. No frame is
        stored beyond the checkpoint.
        """
        lost = [frame for start, end in row["gaps"] for frame in range(start, end + 1)]
        assert sorted(row["frames"] + lost) == list(range(row["checkpoint"]))
        assert row["frames_done"] == len(row["frames"])

    def state_moves_with_the_checkpoint(self, row: RowMapping) -> None:
        """What a task counts survives a kill exactly (Commit)."""
        if row["needs_source"]:
            assert row["state"].get("done", 0) == len(row["frames"])

    def every_change_is_allowed_and_logged_in_a_chain(self, row: RowMapping) -> None:
        """The table of transitions is checked, and every change adds a row (Statuses)."""
        history = row["history"]
        assert history[0][0] is None
        assert history[-1][1] == row["status"]
        for (_, before, _), (start, after, _) in pairwise(history):
            assert start == before
            assert Status(after) in ALLOWED[Status(start)]

    def a_stop_is_never_undone(self, row: RowMapping) -> None:
        """A stop and a spent budget are never undone (Failure): only a user's start does that."""
        stopped = False
        for _, status, reason in row["history"]:
            stopped = (stopped or reason == "stop asked for") and reason not in _STARTS
            assert not (stopped and Status(status) in _WANTS_TO_RUN)

    def one_that_should_run_is_held_or_waits_in_the_queue(self, row: RowMapping) -> None:
        """A lease decides who works (the second sentence): held by one worker, or by none."""
        status = Status(row["status"])
        assert (row["worker_id"] is not None) == (status in HELD)
        assert (row["ended_at"] is not None) == (status in ENDED)

    def budgets_that_are_spent_have_failed(self, row: RowMapping) -> None:
        """Budget spent: `failed` (Failure), or `inactive` if a stop was asked for."""
        spent = row["attempts"] > row["max_attempts"] or row["crashes"] > row["max_crashes"]
        assert not spent or Status(row["status"]) in ENDED
        assert row["attempts"] <= row["max_attempts"] + 1
        assert row["crashes"] <= row["max_crashes"] + 1

    def deaths_are_charged_once_each(self, row: RowMapping) -> None:
        """`crashes` counts deaths, and each is in the log (Failure)."""
        deaths = sum(reason == "the worker died" for _, _, reason in row["history"])
        assert row["crashes"] <= deaths

    def results_are_of_completed_ones(self, row: RowMapping) -> None:
        """The task returned; all that it was given is stored (Statuses)."""
        completed = row["status"] == Status.COMPLETED
        assert completed or row["result"] is None
        assert not completed or row["error"] is None
        assert row["status"] != Status.FAILED or row["error"]

    def announcements_are_of_waiting_ones(self, row: RowMapping) -> None:
        """`announce_at` says when a scenario is to be announced: never before it is due."""
        if row["announce_at"] is not None:
            assert row["status"] == Status.INIT_STARTUP
            assert row["announce_at"] >= row["not_before"]

    def epoch_only_rises(self, before: RowMapping, row: RowMapping) -> None:
        """An epoch fences everybody else: by one with each claim, never back (Claim)."""
        claims = [len([one for one in r["history"] if one[2] == "claimed"]) for r in (before, row)]
        assert row["epoch"] - before["epoch"] == claims[1] - claims[0] >= 0

    def checkpoint_never_goes_back(self, before: RowMapping, row: RowMapping) -> None:
        """Resumes at the checkpoint; only a start from the beginning drops it (Commit)."""
        new = row["history"][len(before["history"]) :]
        if not any(reason == "from the beginning" for _, _, reason in new):
            assert row["checkpoint"] >= before["checkpoint"]
            assert row["frames"][: len(before["frames"])] == before["frames"]
