"""A client of the database that stops itself (SIGSTOP) inside a transaction, with its locks held.

`python -m tests.support.stopped_client KIND URL`: KIND is a worker in the middle of a COPY, which
prints the id of its scenario, or an orchestrator that is about to announce. The exit code is 3 if
the server had ended the transaction when the client was woken, and 0 if the client could continue.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.errors import DatabaseUnavailable
from vidan.protocol import announcements, commits


def stop() -> None:
    """Stop this process until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


class _Rows(list[commits.Row]):
    """Rows, of which the last one is sent only after the process was woken."""

    def __iter__(self) -> Iterator[commits.Row]:
        for number, row in enumerate(super().__iter__()):
            if number == len(self) - 1:
                stop()
            yield row


def worker(url: str) -> None:
    """Claim a scenario, send most of a commit, and stop."""
    played = PlayedWorker(Database(url), "stopped")
    played.claim()
    assert played.fence is not None
    sys.stdout.write(f"{played.fence.scenario_id}\n")
    sys.stdout.flush()
    boxes = [float(edge) for edge in range(40)]
    rows = _Rows(
        commits.Row(frame, frame * 40, [0] * 10, [0.5] * 10, boxes) for frame in range(2_000)
    )
    batch = commits.Batch(0, 2_000, None, "{}", ("person",), rows)
    guarded = Database(url, application_name=str(played.id), guarded=True)
    with guarded.begin() as connection:
        commits.commit(connection, played.fence, batch)


def orchestrator(url: str) -> None:
    """Take the due announcements, and stop."""
    database = Database(url, application_name="orchestrator", guarded=True)
    with database.begin() as connection:
        taken = announcements.take_due(connection)
        sys.stdout.write(f"{len(taken)}\n")
        sys.stdout.flush()
        stop()


if __name__ == "__main__":
    try:
        {"worker": worker, "orchestrator": orchestrator}[sys.argv[1]](sys.argv[2])
    except DatabaseUnavailable:
        sys.exit(3)
