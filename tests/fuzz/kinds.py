"""Helpers with which every kind of fuzzed video is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import av

from tests.fuzz.stock import Stock

Kind = Callable[[Random, Stock, Path], Path]
"""Makes a file and returns its path. The path that it gets has no suffix yet."""


def write(stem: Path, suffix: str, content: bytes) -> Path:
    """Write a file with this suffix."""
    path = stem.with_suffix(f".{suffix}")
    path.write_bytes(content)
    return path


def suffix_of(path: Path) -> str:
    """Return the suffix without its dot."""
    return path.suffix[1:]


def mux(output: av.container.OutputContainer, packet: av.Packet[Any]) -> None:
    """Write a packet, unless the muxer refuses it."""
    with contextlib.suppress(av.FFmpegError):
        output.mux(packet)
