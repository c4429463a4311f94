from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.detectors import SSDLITE, Pixels, sample_frames, save_random
from tests.support.gate import Gate

if TYPE_CHECKING:
    from vidan.detection.device import Place


@pytest.fixture(scope="session")
def frames() -> Pixels:
    return sample_frames()


@pytest.fixture(scope="session")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(SSDLITE, tmp_path_factory.mktemp("weights") / "ssdlite.pt")


@pytest.fixture
def like_a_gpu() -> Place:
    """A place that sends frames as to a GPU, on the CPU."""
    import torch

    from vidan.detection.device import Place
    from vidan.detection.ring import HostCopies, Ring

    return Place(
        torch.device("cpu"), max_parallel=2, prefers_small_calls=False, send=Ring(HostCopies()).send
    )


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.let(1000)  # no thread is left behind
