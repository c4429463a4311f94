"""A worker: one process, one device, N slots. `python -m vidan.worker`, started by a supervisor.

The loop is synchronous and is never blocked by a run: it receives, claims, hands to the slots, and
writes what became of runs.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any
from uuid import UUID

from vidan import broker, config, inbox, logs
from vidan.backoff import BackOff
from vidan.broker.base import Received
from vidan.broker.messages import RUNNERS_GROUP, SCENARIOS_TOPIC
from vidan.config import Settings
from vidan.detection.cache import DetectorCache
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.errors import (
    RETIRED_EXIT_CODE,
    DatabaseUnavailable,
    DeviceLost,
    HandOver,
    LeaseLost,
    VidanError,
)
from vidan.processes import lifeline
from vidan.processes.slotboard import SlotBoard
from vidan.protocol import tasks
from vidan.protocol.fences import Fence
from vidan.protocol.heartbeats import Held
from vidan.run.context import RunContext
from vidan.services import schedules
from vidan.tasks.loading import load_tasks
from vidan.tasks.task import Task
from vidan.worker import outcomes as concluding
from vidan.worker.claiming import Claims, activate
from vidan.worker.concluder import Concluder
from vidan.worker.execution import Outcome, run_scenario
from vidan.worker.lease import Lease, Measured
from vidan.worker.leaving import Leaving
from vidan.worker.missing_sources import MissingSources
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.polling import Polling
from vidan.worker.reconciliation import Reconciliation
from vidan.worker.retry_events import RetryEvents
from vidan.worker.slots import ClaimedRun, FrameRate, Slots

log = logging.getLogger("vidan.worker")

AHEAD_SECONDS = 1.0
"""What was claimed ahead and has not begun after this is put back."""
ORPHAN_SECONDS = 30.0
"""So long a worker has for its hand-over once its supervisor is gone."""
ABANDON_SECONDS = 30.0
"""So long the runs of an ended lease have to stop; then the process ends with them."""
HURRIED_SECONDS = 5.0
"""So long they have if the process is asked to end meanwhile."""


class Worker:
    """Claims scenarios and runs them in its slots. `run_once` is one step of its loop.

    `former` is the registration of the process that this one replaces, if any.
    """

    def __init__(
        self,
        settings: Settings,
        options: WorkerOptions,
        registry: Mapping[str, Task[..., Any]],
        board: SlotBoard | None = None,
        former: UUID | None = None,
    ) -> None:
        self.stopping = False
        self.departure = Leaving(options.max_frames_per_child)
        self._settings = settings
        self._options = options
        self._registry = registry
        self._board = board
        self._broker = broker.connect(settings)
        self._producer = self._broker.producer()
        self._detectors = DetectorCache(
            options.device, options.threads, on_lost=_end_without_device
        )
        self._slots = Slots(options.slots, self._run, board)
        consumer = self._broker.consumer(RUNNERS_GROUP, [SCENARIOS_TOPIC])
        self._intake = Polling(consumer, self._slots)
        missing = MissingSources()
        self._retries = RetryEvents(self._producer)
        self._conclusions = OutcomeWriter(options.name, self._retries, missing)
        self._claims = Claims(options, registry, self._slots, missing)
        self._lease: Lease | None = None
        self._concluder: Concluder | None = None  # of this lease
        self._former = former
        self._frames = FrameRate()
        self._comparison = Reconciliation()

    def run(self) -> None:
        """Work until `stopping`, then put back what runs and leave."""
        back_off = BackOff()
        while not self.stopping:
            try:
                self.run_once()
            except DatabaseUnavailable as error:
                log.warning("%s", error)
            except Exception:  # one bad round must not end the process, and all its runs with it
                if self._lease is None:
                    raise  # it can't even register: its supervisor tells that from an outage
                log.exception("a round failed")
            else:
                back_off.worked()
                continue
            time.sleep(back_off.pause())
        self._leave()

    def run_once(self) -> None:
        """Receive, claim: one step. Raises DatabaseUnavailable; nothing is lost by it."""
        lease = self._current_lease()
        if lease is None:
            return
        leaving = self._depart(lease)
        self._scale(lease)
        received = self._receive()
        try:
            inbox.scenario_ids(lease.database, received)  # ids are hints: the claim asks the rows
            told = self._intake.told(received)
            if not leaving and (told or self._intake.sweep_due):
                short = self._claims.take(lease, told=told)
                self._intake.claimed(short=short, live_workers=lease.live_workers)
            self._put_back_waiting(lease)
        except DatabaseUnavailable:
            self._intake.rewind(received)
            raise
        self._intake.commit(received)

    # --- the lease

    def _current_lease(self) -> Lease | None:
        """Return the lease, a new one if there was none or it has ended; None if it is to leave."""
        if self._lease is not None and not self._lease.ended:
            return self._lease
        if self._lease is not None:
            self._abandon(self._lease)
        if self.stopping:
            return None
        lease = Lease(
            self._settings.require_database(),
            self._options,
            tuple(self._registry),
            self._board,
            on_beat=self._compare,
            on_end=self._lose_all,
            measure=self._measure,
            former=self._former,
        )
        specs = [task.spec for task in self._registry.values()]
        try:
            lease.database.retrying(lambda c: tasks.publish(c, specs))
            # of two versions, that which was started last: nobody starts a process for suspects
            if self._former is None and not self._options.quarantine:
                self._publish_schedules(lease)
            lease.begin()
        except BaseException:
            lease.close()
            raise
        log.info("%s registered as %s", self._options.name, lease.worker_id)
        self._lease = lease
        self._concluder = Concluder(lease, self._slots, self._conclude)
        self._former = lease.worker_id
        self._intake.soon = True
        return lease

    def _publish_schedules(self, lease: Lease) -> None:
        if (app := self._options.app) is not None:
            found = [(one.name, s) for one in self._registry.values() for s in one.schedules]
            lease.database.retrying(lambda c: schedules.publish(c, app, found))

    def _abandon(self, lease: Lease) -> None:
        """Let go of an ended lease and of its runs; nothing of theirs may be written."""
        self._outlast_runs()
        lease.give_up()
        self._lease = None

    def _outlast_runs(self) -> None:
        """Wait until the runs of a lease that holds nothing any more have stopped.

        Code that is stuck takes the process with it: nobody is charged. It must not be left to the
        interpreter's end, which aborts where a thread is in the middle of native code.
        """
        self._stop_concluding()
        self._slots.conclude(one.claimed.fence for one in self._slots.withdraw())
        began = time.monotonic()
        while self._slots.engaged():
            patience = HURRIED_SECONDS if self.stopping else ABANDON_SECONDS
            if time.monotonic() - began > patience:
                level = logging.WARNING if self.stopping else logging.ERROR
                log.log(level, "runs of an ended lease do not stop: ending the process")
                if self._board is not None:
                    self._board.clear()
                os._exit(0 if self.stopping else 1)  # asked to end, it holds nothing: all is done
            self._slots.conclude(outcome.claimed.fence for outcome in self._slots.outcomes())
            self._slots.ended.wait(0.1)

    def _lose_all(self) -> None:
        self._slots.interrupt(lambda: LeaseLost("the worker's lease has ended"))

    def _measure(self) -> Measured:
        busy = bool(self._slots.engaged())
        leaving = self.stopping or self.departure.begun
        state = "draining" if leaving else "busy" if busy else "idle"
        return Measured(state, self._frames.per_second(), self._slots.there)

    def _compare(self, held: list[Held], sent: float) -> None:
        lost = self._comparison.orphans(held, self._slots.engaged(), sent)
        lease = self._lease
        if lost and lease is not None:
            fences = [Fence(row.scenario_id, row.epoch, lease.worker_id) for row in lost]
            self._conclusions.put_back(lease.database, fences, "the claim's answer was lost")

    def _depart(self, lease: Lease) -> bool:
        """Look whether it is time to leave of its own accord. Returns whether it is leaving."""
        if not self.departure.look(lease.desired):
            return False
        self._intake.close()  # so that others take its partitions over at once
        self._put_back(lease, self._slots.withdraw(), "not begun, the worker is leaving")
        if self.departure.hand_over(lease.desired, self._slots):
            self.stopping = True
        return True

    def _scale(self, lease: Lease) -> None:
        """Have the slots that are asked for; of what waits nothing is kept from others by fewer."""
        before = self._slots.count
        if not self._claims.scale(lease.desired_slots):
            return
        self._intake.soon = True
        if self._slots.count < before:
            self._put_back(lease, self._slots.withdraw(), "not begun, the worker has fewer slots")

    # --- receive

    def _receive(self) -> list[Received]:
        if self.departure.begun:
            self._intake.wait_for_room()
            return []
        return self._intake.receive()

    def _put_back_waiting(self, lease: Lease) -> None:
        self._put_back(lease, self._slots.withdraw(AHEAD_SECONDS), "claimed ahead, not begun")

    def _put_back(self, lease: Lease, waiting: list[ClaimedRun], reason: str) -> None:
        if not waiting:
            return
        fences = [one.claimed.fence for one in waiting]
        try:
            self._conclusions.put_back(lease.database, fences, reason)
        finally:
            # if the database is away, the heartbeat finds rows without a run and puts them back
            self._slots.conclude(fences)

    # --- run and conclude

    def _run(self, engagement: ClaimedRun, slot: int) -> Outcome:
        """Run one scenario: called in the slot's thread."""
        lease = self._lease
        assert lease is not None  # it is replaced only when no run of the former is left
        if lease.ended:  # the claim was answered after it: nobody else interrupts this run
            engagement.control.interrupt(LeaseLost("the worker's lease has ended"))
        around = RunContext(
            database=lease.database,
            detectors=self._detectors,
            on_active=lambda: self._activate(lease, engagement),
            on_progress=lambda: self._progressed(engagement),
            on_frames=lambda frames: self._count(engagement, frames),
            board=self._board,
            slot=slot,
        )
        with engagement.about():
            return run_scenario(engagement.claimed, self._registry, engagement.control, around)

    def _count(self, engagement: ClaimedRun, frames: int) -> None:
        self._frames.add(frames)
        self.departure.count(engagement, frames)

    def _activate(self, lease: Lease, engagement: ClaimedRun) -> None:
        activate(lease.database, engagement.claimed.fence, actor=self._options.name)
        log.info("active, from frame %d on", engagement.claimed.checkpoint)

    def _progressed(self, engagement: ClaimedRun) -> None:
        engagement.progressed = True
        if self._options.quarantine:
            engagement.control.interrupt(HandOver("cleared of suspicion"))

    def _conclude(self, lease: Lease) -> None:
        """Write what has ended, as long as there is a concluder in its thread.

        What is too large for one statement is left to the next call. Raises DatabaseUnavailable.
        """
        ended = self._slots.outcomes()
        if not ended:
            return
        outcomes = concluding.first_part(ended)
        self._conclusions.write(lease.database, outcomes)
        self._slots.conclude(outcome.claimed.fence for outcome in outcomes)
        if self._claims.ended(outcomes):
            self._slots.low.set()
        if len(outcomes) < len(ended):
            self._slots.ended.set()

    def _stop_concluding(self) -> None:
        if self._concluder is not None:
            self._concluder.close()
            self._concluder = None

    def _leave(self) -> None:
        """Hand over what runs, then leave: the group last, when the work is written."""
        log.info("%s is leaving", self._options.name)
        self._stop_concluding()
        while self._lease is not None:
            lease = self._lease
            if lease.ended:
                self._abandon(lease)
                break
            self._slots.interrupt(lambda: HandOver("the worker is leaving"))
            try:
                self._put_back(lease, self._slots.withdraw(), "handed over")
                self._conclude(lease)
            except DatabaseUnavailable as error:
                log.warning("%s", error)
                time.sleep(0.5)
            except Exception:  # what it still holds is put back once its lease is given up
                log.exception("leaving failed")
                lease.give_up()
                self._outlast_runs()
                break
            if not self._slots.engaged():
                lease.give_up()
                break
            self._slots.ended.wait(0.2)
        self._intake.close()
        self._retries.close()
        self._producer.close()


def _end_without_device(error: DeviceLost) -> None:
    """End the process: else all that it claims would fail. What it executes counts as a death."""
    log.error("%s: ending the process", error)
    os._exit(1)


@dataclass(slots=True)
class _Orphan:
    """Ends this process when its supervisor is gone, from its first moment on."""

    worker: Worker | None = None  # once there is one

    def ends(self) -> None:
        """Let the worker hand over, for a while: its own code, or an app's, may be stuck."""
        if self.worker is None:
            os._exit(1)
        self.worker.stopping = True
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)  # nobody else is left to end it: its lease ends by itself


def main(argv: list[str] | None = None) -> int:
    """Run a worker until SIGTERM, or until its supervisor is gone. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vidan.worker")
    parser.add_argument("--options", required=True, type=WorkerOptions.from_json)
    parser.add_argument("--board", type=int, help="descriptor of the supervisor's slot board")
    parser.add_argument("--former", type=UUID, help="the registration that this process replaces")
    arguments = parser.parse_args(argv)
    options: WorkerOptions = arguments.options
    orphan = _Orphan()
    lifeline.watch(orphan.ends)
    settings = config.load()
    logs.configure(settings, "worker")
    board = None if arguments.board is None else SlotBoard(arguments.board, MAX_SLOTS)
    try:
        if options.device != "cpu":
            from vidan.detection.device import require

            require(options.device)
        worker = Worker(settings, options, load_tasks(options.app), board, arguments.former)
    except DeviceLost as error:  # it may come back: its supervisor tries again
        log.error("%s", error)
        return 1
    except VidanError as error:
        log.error("%s", f"{error}; {error.hint}" if error.hint else error)
        return error.exit_code

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    orphan.worker = worker
    gc.collect()
    gc.freeze()  # what was imported stays: to look through it takes the collector 30 ms each time
    worker.run()
    return RETIRED_EXIT_CODE if worker.departure.retired else 0
