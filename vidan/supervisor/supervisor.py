"""The supervisor: a worker process for each device, restarted when it dies. Never imports torch.

It runs as `python -m vidan.supervisor`, or in the process of `vidan worker`.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from types import FrameType
from uuid import UUID

from sqlalchemy import Connection

from vidan import logs
from vidan.config import Settings
from vidan.db import schema
from vidan.db.session import Database
from vidan.domain.status import DesiredState
from vidan.domain.worker import WorkerOptions
from vidan.errors import DatabaseUnavailable, InputRejected
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.protocol import expiry
from vidan.services import workers
from vidan.supervisor.post import Exit, Post, Release
from vidan.supervisor.quarantine import Quarantine
from vidan.worker.log_keeper import LogKeeper

log = logging.getLogger("vidan.supervisor")

ROUND_SECONDS = 0.1
"""Pause, in seconds, between two steps of the loop."""
RELEASE_SECONDS = 0.5
"""Pause, in seconds, before a lease that could not be given up is tried again."""
HOPELESS_PAUSE_SECONDS = 60.0
"""How long, in seconds, a post is given up. A supervisor whose posts are all given up ends."""


class Supervisor:
    """Keeps a worker process at every post. `run_once` is one step of its loop."""

    def __init__(self, settings: Settings, posts: Sequence[WorkerOptions]) -> None:
        self.signals = 0
        self._settings = settings
        self._posts = [Post(options) for options in posts]
        self._database = Database(
            settings.require_database(direct=True),
            application_name="supervisor",
            guarded=True,
            direct=True,
        )
        self._quarantine = Quarantine(settings, self._database, self._posts)
        self._releases: list[Release] = []
        self._next_release = 0.0
        self._exit_code = 0

    def run(self) -> int:
        """Work until a signal: the first lets the workers hand over, a second one ends them now.

        The supervisor ends by itself when all its workers were drained or stopped. Returns the exit
        code: 0 after a hand-over, a worker's own code if a restart would not fix its error.
        """
        heeded = 0
        while True:
            self.run_once()
            if self.signals > heeded:
                heeded = self.signals
                self._end_children(now=heeded > 1)
            ending = self.signals or self._exit_code or self._retired()
            if ending and not self._children() and not self._releases:
                break
            time.sleep(ROUND_SECONDS)
        self._database.close()
        return self._exit_code

    def run_once(self) -> None:
        """Reap, end stuck processes, release leases, restart, look for suspects: one step."""
        for post in self._all_posts():
            self._reap(post)
            post.end_stuck(stalls=not self.signals)
        self._release()
        if self.signals or self._exit_code:
            return
        if self._retired():
            if self._quarantine.post is not None:
                self._quarantine.post.ask_to_end()
            return
        for post in self._posts:
            post.start(self._settings)
        self._quarantine.keep()

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return [child.pid for child in self._children()]

    def _retired(self) -> bool:
        return all(post.retired for post in self._posts)

    def _all_posts(self) -> list[Post]:
        return [*self._posts, *([self._quarantine.post] if self._quarantine.post else [])]

    def _children(self) -> list[Child]:
        return [post.child for post in self._all_posts() if post.child is not None]

    def _reap(self, post: Post) -> None:
        """Collect a process that has ended; if it died, plan its restart and give its lease up."""
        ended = post.collect()
        if ended is None:
            return
        if post.retired:
            log.info("worker %s has left, as it was asked to", post.options.name)
        if not ended.died:
            return
        how = ended.in_words(post.options.app)
        with logs.bound(worker_id=ended.worker_id):
            log.warning("worker %s ended %s", post.options.name, how)
        if post is self._quarantine.post:
            self._quarantine.check_now()
        if ended.worker_id is not None:
            self._releases.append(self._release_after(ended, post, ended.worker_id))
        if post.plan_restart(ended):
            self._give_post_up(post, InputRejected.exit_code if ended.by_its_app else ended.code)

    def _release_after(self, ended: Exit, post: Post, worker_id: UUID) -> Release:
        """Return the release. It charges the scenario it was killed for, else all in it."""
        executing, cause = ended.executing, lifeline.death(ended.code)
        if ended.ended_for is not None:
            executing, cause = [ended.ended_for.scenario_id], ended.ended_for.cause
        if self.signals:
            executing = []  # ended on purpose, for no scenario
        return Release(post, worker_id, executing, cause)

    def _give_post_up(self, post: Post, code: int) -> None:
        """Give up a post whose worker never registers; workers on other devices may work."""
        post.given_up = True
        if all(one.hopeless or one.retired for one in self._posts):
            self._exit_code = code if code > 0 else 1
            self._end_children(now=False)
        else:
            post.give_up_for(HOPELESS_PAUSE_SECONDS)

    def _end_children(self, *, now: bool) -> None:
        for post in self._all_posts():
            if post.child is not None and now:
                post.child.kill()
            else:
                post.ask_to_end()

    def _release(self) -> None:
        """Give up the leases of dead processes; a failed attempt is repeated later."""
        if time.monotonic() < self._next_release:
            return
        for release in list(self._releases):
            try:
                done = self._database.retrying(_give_lease_up, release)
            except Exception as error:  # no error here may end the supervisor and all its workers
                log.warning("can't give up the lease of %s: %s", release.worker_id, error)
                self._next_release = time.monotonic() + RELEASE_SECONDS
                if isinstance(error, DatabaseUnavailable) and not self.signals:
                    break  # each attempt may take seconds, and the processes need attention
                done = self.signals > 0  # the lease will end by itself
            if done:
                self._releases.remove(release)


def _give_lease_up(connection: Connection, release: Release) -> bool:
    """Give up one lease. A worker that was drained meanwhile is not started again."""
    desired = workers.desired_state(connection, release.worker_id)
    release.post.retired |= desired is not DesiredState.RUNNING
    return expiry.release_worker(
        connection,
        release.worker_id,
        actor="supervisor",
        executing=release.executing,
        cause=release.cause,
    )


def supervise(settings: Settings, wanted: Sequence[WorkerOptions]) -> int:
    """Run a supervisor in this process until it is told to end.

    Returns the exit code: 0 after a hand-over on SIGTERM, 130 after one on Ctrl-C.

    Raises DatabaseUnavailable, SchemaMismatch, or UsageError for a connection pooler, before any
    worker is started.
    """
    database = Database(settings.require_database(direct=True), guarded=True, direct=True)
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
    with LogKeeper(settings.require_database(direct=True)):  # it tells of runs that it ends
        code = supervisor.run()
    return 128 + signal.SIGINT if interrupted else code
