"""What Hypothesis chooses from: the events, how often each happens, and the values drawn for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.model.users import Wish
from tests.model.world import COUNT
from vidan.domain.status import Status

QUEUES = ("north", "south")
CAMERAS = ("rtsp://one", "rtsp://two")
MAX_SCENARIOS = 4
MAX_WORKERS = 5
MAX_OPEN = 3

FATES = ("delivered", "delivered", "lost", "failed")
ENDINGS = (Status.COMPLETED, Status.INACTIVE, Status.FAILED)
KINDS = (
    *("commit", "commit", "claim", "finish", "activate", "fail", "hand over"),
    *("stop", "start", "take due", "restart", "expire"),
)
ODD_PAYLOADS = (
    b'{"v": 2, "scenario_id": 1}',
    b'{"v": 1, "scenario_id": 0}',
    b'{"v": 1, "scenario_id": 9223372036854775808}',
    b'{"v": 1, "scenario_id": "1"}',
    b'{"v": 1}',
)

ENDS_OF_RUNS = ("fail", "fail", "finish", "finish", "begin", "hand over")
ZOMBIE = ("commit", "commit again", "fail", "finish", "hand over", "begin", "shut down")
DEATHS = (*("of its scenario",) * 4, "signs off", "forgotten", "killed")
STARTS = ("start", "start over", "retry")
ASKED = (*STARTS, "stop", "stop what runs", "stop what runs", "delete")

F = TypeVar("F", bound=Callable[..., None])

picks = st.integers(0, 59)
gaps = st.one_of(st.none(), st.tuples(st.integers(0, 3), st.integers(0, 2)))
flags = st.booleans()
witnesses = st.sampled_from([None, -1.0, 1.0])
rarely = st.integers(0, 3).map(lambda one: one == 3)
endings = st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=4)
wishes = st.builds(
    Wish,
    task=st.sampled_from(["detect", "detect", COUNT.name]),
    source=st.sampled_from(["/a.mp4", None, CAMERAS[0]]),
    key=st.sampled_from([None, None, "k1", "k2"]),
    queue=st.sampled_from(QUEUES),
    priority=st.integers(0, 2),
    inactive=rarely,
    later=rarely,
    max_attempts=st.integers(0, 1),
)


Happening = tuple[str, dict[str, Any]]
EVENTS: dict[str, tuple[int, st.SearchStrategy[dict[str, Any]]]] = {}


def event(weight: int, **drawn: st.SearchStrategy[Any]) -> Callable[[F], F]:
    """Register a method as an event, with how often it happens and the values drawn for it.

    All events are one rule of Hypothesis, which draws them by weight. If each were a rule of its
    own, Hypothesis would leave out half of them in every example, and few runs would get far.
    """

    def enter(method: F) -> F:
        EVENTS[method.__name__] = (weight, st.fixed_dictionaries(drawn))
        return method

    return enter


def happenings() -> st.SearchStrategy[Happening]:
    """Return the strategy that draws an event."""
    names = [name for name, (weight, _) in EVENTS.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), EVENTS[name][1]))
