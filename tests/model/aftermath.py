"""All processes die, and time passes: every scenario that should run is claimed again at once."""

from __future__ import annotations

from collections.abc import Sequence

from tests.model.orchestrators import Expiry
from tests.model.played import Workers
from tests.model.world import World
from vidan.domain.status import HELD, RUNNING, Status


def everybody_dies(world: World, workers: Workers, cameras: Sequence[str]) -> None:
    """Prove that a scenario that should run is always either leased or claimable at its time.

    Every process dies, open transactions are rolled back and all leases end. After one round of
    expiry and one claim by able workers, every scenario that should run is held by a worker, and
    every scenario that should stop has stopped.
    """
    for left in list(world.open):
        world.settle(left, "cut")
    for worker in workers.all:
        if not worker.ended:
            assert workers.let_lease_end(worker)
    wanted = {
        one.id
        for one in world.expected.values()
        if one.status is Status.INIT_STARTUP or one.status in RUNNING
    }
    assert Expiry(world, workers.all).do()
    assert world.time_passes(wanted)
    for source in (None, *cameras):
        able = workers.register(source=source)
        assert world.do(workers.claim(able, 100))
    held = {one.id for one in world.expected.values() if one.status in HELD}
    assert held == wanted, "a scenario that should run is stuck"
