"""The supervisor: a worker process for each device, restarted when it dies. Never imports torch.

`python -m vidan.supervisor`, or in the process of `vidan worker`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from uuid import UUID

from sqlalchemy import Connection

from vidan import config, logs
from vidan.config import Settings
from vidan.db import schema
from vidan.db.session import Database
from vidan.domain.durations import in_words
from vidan.domain.status import DesiredState
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.errors import HOPELESS_EXIT_CODES, RETIRED_EXIT_CODE, DatabaseUnavailable, VidanError
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.processes.slotboard import Call, SlotBoard
from vidan.protocol import claims, expiry
from vidan.services import workers
from vidan.supervisor.post import EndedFor, Post, Release

log = logging.getLogger("vidan.supervisor")

STALL_SECONDS = 60.0
"""So long a call of the decoder or the detector may take; see SlotBoard."""
STALLS = {
    Call.DECODER: "in one call of the decoder",
    Call.DETECTOR: "in one call of the detector",
    Call.PROGRESS: "without run.progress()",
}
SILENT_SECONDS = 12.0
"""A database that has been silent for this long excuses a stall."""
ROUND_SECONDS = 0.1
RELEASE_SECONDS = 0.5
"""How often it tries again to give a lease up, while the database is away."""
QUARANTINE_SECONDS = 2.0
"""How often it asks whether suspects wait, if its workers have several slots."""
QUARANTINE_AWAY_SECONDS = 15.0
"""… and after an error: each try may take seconds."""
QUARANTINE_AHEAD_SECONDS = 5.0
"""The quarantine child is started, or kept, for suspects that are due so soon."""
STEADY_SECONDS = 10.0
"""A child that lived this long is restarted at once; others with a growing pause."""
RESTART_PAUSE_SECONDS = 5.0
MAX_FALSE_STARTS = 5
"""So many deaths in a row before a child has registered, and its post is given up for a while."""
HOPELESS_PAUSE_SECONDS = 60.0
"""Until then; a supervisor whose posts are all given up ends."""

# PyAV allocates and frees a picture at a time: kept in the heap it is 46 % quicker at 720p. One
# heap for all threads: those of their own are given back again and again, which took the thread
# that detects up to a tenth of its time, and a third more memory
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_ARENA_MAX": "1",
}


class Supervisor:
    """Keeps a worker process at every post. `run_once` is one step of its loop."""

    def __init__(self, settings: Settings, posts: Sequence[WorkerOptions]) -> None:
        self.signals = 0
        self._settings = settings
        self._posts = [Post(options) for options in posts]
        self._quarantine: Post | None = None
        self._next_quarantine = 0.0
        self._releases: list[Release] = []
        self._next_release = 0.0
        self._database: Database | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Work until a signal: the first lets the workers hand over, a second ends now.

        It ends by itself when all its workers were drained or stopped. Returns the exit code: 0
        after a hand-over, a worker's own if a restart would not mend it.
        """
        asked = 0
        while True:
            self.run_once()
            if self.signals > asked:
                asked = self.signals
                self._end_children(now=asked > 1)
            ending = self.signals or self._exit_code or self._retired()
            if ending and not self._children() and not self._releases:
                break
            time.sleep(ROUND_SECONDS)
        if self._database is not None:
            self._database.close()
        return self._exit_code

    def run_once(self) -> None:
        """Reap, release, restart, look for overruns, stalls and suspects: one step."""
        for post in self._all_posts():
            self._reap(post)
            self._end_stuck(post)
        self._release()
        if self.signals or self._exit_code:
            return
        if self._retired():
            if self._quarantine is not None:
                _ask(self._quarantine)
            return
        for post in self._posts:
            self._start(post)
        self._keep_quarantine()

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return [child.pid for child in self._children()]

    def _retired(self) -> bool:
        return all(post.retired for post in self._posts)

    def _all_posts(self) -> list[Post]:
        return [*self._posts, *([self._quarantine] if self._quarantine else [])]

    def _children(self) -> list[Child]:
        return [post.child for post in self._all_posts() if post.child is not None]

    # --- processes

    def _start(self, post: Post) -> None:
        if post.child is not None or post.retired or time.monotonic() < post.not_before:
            return
        environment = {**self._settings.environment(), **MALLOC}
        if post.options.threads is not None:
            environment["OMP_NUM_THREADS"] = str(post.options.threads)
        arguments = ["--options", post.options.to_json()]
        if post.former is not None:
            arguments += ["--replaces", str(post.former)]
        board: SlotBoard | None = None
        try:
            board = SlotBoard.create(MAX_SLOTS)
            arguments += ["--board", str(board.fd)]
            post.child = lifeline.spawn(
                "vidan.worker", arguments, env=environment, pass_fds=[board.fd]
            )
        except OSError as error:  # too many processes or open files: the others work on
            log.error("worker %s can't be started: %s", post.options.name, error)
            if board is not None:
                board.close()
            post.not_before = time.monotonic() + RESTART_PAUSE_SECONDS
            return
        post.board = board
        post.asked = False
        post.started = time.monotonic()

    def _reap(self, post: Post) -> None:
        """Look whether a process has ended; if it died, give up its lease for it."""
        if post.child is None or post.board is None or (code := post.child.poll()) is None:
            return
        worker_id, executing = post.board.worker_id, post.board.executing()
        post.child.close()
        post.slots = post.count()
        post.board.close()
        lived = time.monotonic() - post.started
        post.child = post.board = None
        ended_for, post.ended_for = post.ended_for, None
        post.former = worker_id or post.former
        post.retired = code == RETIRED_EXIT_CODE
        if post.retired:
            log.info("worker %s has left: it was told to", post.options.name)
        if code in (0, RETIRED_EXIT_CODE):
            return
        if post.asked and code == -signal.SIGTERM and worker_id is None:
            return  # it was asked before it could listen, and has not begun anything
        with logs.bound(worker_id=worker_id):
            log.warning("worker %s ended with %d", post.options.name, code)
        post.deaths = 0 if lived > STEADY_SECONDS else post.deaths + 1
        if post is self._quarantine:
            self._next_quarantine = 0.0  # the next suspects wait for it
        post.given_up = False
        if worker_id is not None:
            if self.signals:
                executing = []  # ended on purpose, for no scenario
            elif ended_for is not None:
                executing = [ended_for.scenario_id]
            cause = lifeline.death(code) if ended_for is None else ended_for.cause
            self._releases.append(Release(post, worker_id, executing, cause))
        elif code in HOPELESS_EXIT_CODES or post.deaths >= MAX_FALSE_STARTS:
            self._give_post_up(post, code)
            return
        pause = min(RESTART_PAUSE_SECONDS, 0.1 * 2**post.deaths) if post.deaths > 1 else 0.0
        post.not_before = time.monotonic() + pause

    def _give_post_up(self, post: Post, code: int) -> None:
        """Its worker never gets so far as to register; others may, on a GPU that is not broken."""
        post.given_up = True
        if all(one.hopeless or one.retired for one in self._posts):
            self._exit_code = code if code > 0 else 1
            self._end_children(now=False)
            return
        pause = HOPELESS_PAUSE_SECONDS
        log.error("worker %s can't be started: again in %.0f s", post.options.name, pause)
        post.not_before = time.monotonic() + pause

    def _end_stuck(self, post: Post) -> None:
        """End a process for a scenario that is over its time limit, or stalled in one call.

        A stall is excused while the database is silent, which it may be waiting for. A time limit
        is by the wall clock: code that lets no other thread run keeps its process silent, too.
        """
        if post.child is None or post.board is None or post.ended_for:
            return
        if (overdue := post.board.overdue()) is not None:
            scenario_id, limit = overdue
            _end_for(post, scenario_id, f"it ran over its time limit of {in_words(limit)}")
            return
        if self.signals:
            return
        stalled = post.board.stalled(STALL_SECONDS)
        if stalled is None or post.board.database_silent_for() > SILENT_SECONDS:
            return
        scenario_id, call = stalled
        _end_for(post, scenario_id, f"it stalled: over {STALL_SECONDS:.0f} s {STALLS[call]}")

    def _end_children(self, *, now: bool) -> None:
        for post in self._all_posts():
            if post.child is not None and now:
                post.child.kill()
            else:
                _ask(post)

    # --- the database

    def _connected(self) -> Database:
        if self._database is None:
            self._database = Database(
                self._settings.require_database(), application_name="supervisor", guarded=True
            )
        return self._database

    def _release(self) -> None:
        """Give up the leases of dead processes; what can't be had now is tried again."""
        if time.monotonic() < self._next_release:
            return
        for release in list(self._releases):
            try:
                done = self._connected().retrying(lambda c, r=release: self._give_up(c, r))  # type: ignore[misc]
            except Exception as error:  # nothing here may end it, and all its workers with it
                log.warning("can't give up the lease of %s: %s", release.worker_id, error)
                self._next_release = time.monotonic() + RELEASE_SECONDS
                if isinstance(error, DatabaseUnavailable) and not self.signals:
                    break  # each try may take seconds, and there are children to look after
                done = self.signals > 0  # its lease will end by itself
            if done:
                self._releases.remove(release)

    def _give_up(self, connection: Connection, release: Release) -> bool:
        """Give up one lease. Its worker may have been drained: then it is not started again."""
        desired = workers.desired_state(connection, release.worker_id)
        release.post.retired |= desired is not DesiredState.RUNNING
        return expiry.release_worker(
            connection,
            release.worker_id,
            actor="supervisor",
            executing=release.executing,
            cause=release.cause,
        )

    def _keep_quarantine(self) -> None:
        """Keep one process of one slot while there are suspects that no other may take."""
        posts = [post for post in self._posts if not post.retired]
        posts = [post for post in posts if not post.given_up] or posts
        options = posts[0].options
        other = any(post.count() == 1 for post in posts)  # which takes them itself
        if (other and self._quarantine is None) or time.monotonic() < self._next_quarantine:
            return
        self._next_quarantine = time.monotonic() + QUARANTINE_SECONDS
        try:
            with self._connected().begin() as connection:
                wanted = not other and claims.suspects_due(
                    connection, self._registered(), within=QUARANTINE_AHEAD_SECONDS
                )
        except Exception as error:
            log.warning("can't ask for suspects: %s", error)
            self._next_quarantine = time.monotonic() + QUARANTINE_AWAY_SECONDS
            return
        if wanted and self._quarantine is None:
            self._quarantine = Post(
                replace(options, name=f"{options.name}-quarantine", slots=1, quarantine=True)
            )
        if self._quarantine is None:
            return
        board = self._quarantine.board
        if self._quarantine.options.device != options.device:
            _ask(self._quarantine)  # its device was drained: it makes room for one on another
            if self._quarantine.child is None:
                self._quarantine = None
        elif wanted:
            self._start(self._quarantine)
        elif self._quarantine.child is None:
            if not self._quarantine.retired:
                self._quarantine = None
        elif board is not None and board.worker_id is not None and not board.executing():
            _ask(self._quarantine)

    def _registered(self) -> list[UUID]:
        """Return the newest registrations of its workers: they say what these can run."""
        newest = [(post.board and post.board.worker_id) or post.former for post in self._posts]
        return [worker_id for worker_id in newest if worker_id is not None]


def _ask(post: Post) -> None:
    """Ask a child to end, once: a second signal could hit its last steps, when none is heeded."""
    if post.child is not None and not post.asked:
        post.asked = True
        post.child.terminate()


def _end_for(post: Post, scenario_id: int, cause: str) -> None:
    """Kill a child for one scenario, which alone is charged when it is reaped."""
    assert post.child is not None
    assert post.board is not None
    with logs.bound(scenario_id=scenario_id, worker_id=post.board.worker_id):
        log.error("%s: ending its process", cause)
    post.ended_for = EndedFor(scenario_id, cause)
    post.child.kill()  # it is reaped when it is gone: stuck in the kernel, that may take long


def main(argv: list[str] | None = None) -> int:
    """Supervise the workers that `--posts` describes, until a signal or the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m vidan.supervisor")
    parser.add_argument("--posts", required=True, help="a JSON list of worker options")
    arguments = parser.parse_args(argv)
    settings = config.load()
    logs.configure(settings, "supervisor")
    wanted = [WorkerOptions.from_json(json.dumps(one)) for one in json.loads(arguments.posts)]
    try:
        return supervise(settings, wanted)
    except VidanError as error:
        log.error("%s", error)
        return error.exit_code


def supervise(settings: Settings, wanted: Sequence[WorkerOptions]) -> int:
    """Run a supervisor in this process until it is told to end.

    Returns the exit code: 0 after a hand-over on SIGTERM, 130 after one on Ctrl-C.

    Raises DatabaseUnavailable or SchemaMismatch before any worker is started.
    """
    database = Database(settings.require_database(), guarded=True)
    try:
        schema.check(database)
    finally:
        database.close()
    supervisor = Supervisor(settings, wanted)
    interrupted = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        supervisor.signals += 1
        interrupted = interrupted or number == signal.SIGINT

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lifeline.watch(lambda: setattr(supervisor, "signals", max(1, supervisor.signals)))
    code = supervisor.run()
    return 128 + signal.SIGINT if interrupted else code
