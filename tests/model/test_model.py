"""The protocol in any order of events, compared with a model of it.

`make model STEPS=100000 SEED=7` takes more steps; a failure prints its story, step by step.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Protocol
from tests.model.world import World
from vidan.db.session import Database
from vidan.domain.status import ALLOWED, Status

STEPS = 10_000
STEPS_AN_EXAMPLE = 50
SEED = 1


@pytest.mark.slow
def test_whatever_happens_the_protocol_keeps_its_word(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = int(os.environ.get("VIDAN_MODEL_STEPS") or STEPS)
    first = int(os.environ.get("VIDAN_MODEL_SEED") or SEED)
    logging.getLogger("vidan.broker").setLevel(logging.ERROR)  # the test sends it much garbage
    database = Database(database_url, guarded=True)
    allowed = {(before, after) for before in ALLOWED for after in ALLOWED[before]}
    met: Counter[tuple[Status, Status]] = Counter()
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    def machine() -> Protocol:
        return Protocol(World(database, database_url, met), count)

    try:
        for number in itertools.count(first):
            run_state_machine_as_test(
                seed(number)(machine),  # type: ignore[arg-type]  # a factory serves as well as a class
                settings=settings(
                    max_examples=max(20, -(-(wanted - taken) // STEPS_AN_EXAMPLE)),
                    stateful_step_count=STEPS_AN_EXAMPLE,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                    print_blob=False,  # the seed repeats a failure
                    database=None,
                ),
            )
            all_met = wanted < STEPS or set(met) == allowed or taken >= 2 * wanted
            if taken >= wanted and all_met:  # an example may end early
                break
    finally:
        database.close()
        with capsys.disabled():
            sys.stderr.write(f"\n{taken} steps of the model; SEED={first} takes them again\n")
    assert wanted < STEPS or set(met) == allowed, "some change of status never happened"
