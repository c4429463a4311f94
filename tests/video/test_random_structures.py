"""Frame n shows picture n, whatever the structure of the video."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.numbered import Numbers, resume_differs
from tests.support.structures import Group, Structure, sound_groups, write
from vidan.video import decoding

EXAMPLES = int(os.environ.get("VIDAN_STRUCTURES", "40"))

groups = st.builds(
    Group,
    length=st.integers(1, 14),
    reorder=st.integers(0, 4),
    fields=st.booleans(),
    seed=st.integers(0, 1000),
)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    container = draw(st.sampled_from(["mp4", "mkv", "ts", "avi", "flv", "264"]))
    chosen = tuple(draw(st.lists(groups, min_size=1, max_size=8)))
    stamps = ["shown", "decoded", "tied"]
    if container == "avi":
        stamps = ["decoded"]
    elif container == "mp4":
        stamps = ["shown", "decoded"]  # with equal ones FFmpeg itself passes over the first packet
    places = st.integers(1, max(1, sum(group.length for group in chosen) - 1))
    # what is damaged in a raw stream is no packet of its own
    damaged = set() if container == "264" else draw(st.sets(places, max_size=2))
    return Structure(
        chosen,
        container,
        draw(st.sampled_from(stamps)),
        frozenset(damaged) if sum(group.length for group in chosen) > 1 else frozenset(),
        draw(st.booleans()),
        draw(st.booleans()),
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
@given(structures(), st.integers(1, 3))
def test_frame_n_shows_picture_n(tmp_path: Path, structure: Structure, threads: int) -> None:
    path = write(tmp_path / f"a.{structure.container}", structure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "threads_here", lambda: threads)
        check(path, structure)


def check(path: Path, structure: Structure) -> None:
    whole = Numbers(path)
    everything = list(range(structure.pictures))

    assert sorted([index for index, _, _ in whole.frames] + whole.lost) == everything
    times = [time for _, _, time in whole.frames]
    assert times == sorted(times)
    if not structure.damaged:
        assert whole.wrong == []
        assert whole.lost == []
    elif structure.stamps == "shown":
        assert whole.wrong == []
    else:
        exact = set(sound_groups(structure))
        assert [one for one in whole.wrong if structure.group_of(one[0]) in exact] == []
    places = whole.places[:: 1 + len(whole.places) // 8]
    differ = [found for at in places if (found := resume_differs(whole, path, at))]
    assert differ == []
