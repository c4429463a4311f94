"""docs/reference.md says what the code says: VIDAN_WRITE_REFERENCE=1 writes it again."""

from __future__ import annotations

import os
from importlib import import_module

import numpy as np

import vidan
from tests.support import reference
from vidan.video.frames import FrameBatch


def test_the_reference_is_that_of_the_code() -> None:
    made = reference.document()
    if os.environ.get("VIDAN_WRITE_REFERENCE"):
        reference.PATH.write_text(made, encoding="utf-8")
    assert reference.PATH.read_text(encoding="utf-8") == made, (
        "write it with VIDAN_WRITE_REFERENCE=1 python -m pytest tests/documents/test_reference.py"
    )


def test_it_has_all_that_the_package_exports() -> None:
    text = reference.document()
    for name in set(dir(vidan)) - {"__version__"}:
        assert f"### {name}\n" in text, name
    for part in reference.PARTS:
        module = import_module(part.module)
        for name in part.names:
            assert hasattr(module, name)
            for member in part.members:
                assert hasattr(getattr(module, name), member), member


def test_all_that_it_shows_is_explained() -> None:
    """A heading, its signature, and at least a sentence."""
    parts = reference.document().split("\n#")
    bare = [
        part.splitlines()[0] for part in parts if part.count("```") == 2 and part.endswith("```\n")
    ]
    assert bare == []


def test_frames_have_their_times_under_the_name_that_predictions_have() -> None:
    times = np.array([0, 40], dtype=np.int64)
    pixels = np.zeros((2, 4, 6, 3), dtype=np.uint8)
    batch = FrameBatch(np.array([0, 1]), times, pixels, 6, 4, (), 2, None)
    assert batch.time_ms is batch.times
