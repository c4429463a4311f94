"""How many cores may be used, read from files like those of cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vidan.detection import cores

ELSEWHERE = "1:memory:/other\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("", {"cpu.max": "200000 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "300000 100000\n"}, 0.5),
        # as the host calls it, while only the container's own is mounted
        ("0::/docker/1a\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("0::/../../x\n", {"cpu.max": "400000 100000\n"}, 4.0),
        (
            ELSEWHERE + "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            ELSEWHERE + "4:cpu:/docker/1a\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            2.0,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "1\n"}, None),
    ],
)
def test_the_least_quota_counts(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    member = tmp_path / "cgroup"
    member.write_text(membership)
    mount = tmp_path / "mount"
    for name, content in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cores.quota(mount, member) == quota


@pytest.mark.parametrize(
    ("most", "bound", "quota", "expected"),
    [(64, 64, 2.0, 2), (64, 64, 1.2, 2), (64, 64, 0.1, 1), (64, 3, None, 3), (4, 64, 8.0, 4)],
)
def test_what_is_usable_is_the_least_of_all(
    most: int, bound: int, quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.usable(most) == expected


LANES = """
import torch
from vidan.detection import cores
from vidan.detection.device import Place

torch.set_num_threads(2)  # as torch chooses for itself on two cores
cores.quota = lambda: 0.5
print(Place.of("cpu").max_parallel)
"""


def test_a_network_has_as_many_lanes_as_the_quota_allows() -> None:
    done = subprocess.run([sys.executable, "-c", LANES], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
