"""Stands in for programs that examples of the documents call and a machine lacks: jq, curl, kcat.

`python -m tests.support.stand_ins PROGRAM ARGUMENT…` does what the examples need, and no more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.documents import ROOT

FORCED = "STAND_INS"
"""Variable of the environment: the stand-ins replace even programs that are installed."""


def install(folder: Path) -> None:
    """Put a script into the folder for each program that this machine lacks."""
    for name in PROGRAMS:
        if shutil.which(name) is None or os.environ.get(FORCED):
            script(folder / name, f'"{sys.executable}" -m tests.support.stand_ins {name}')


def script(path: Path, command: str) -> None:
    """Write a program that runs a command with its own arguments appended."""
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec {command} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def jq(arguments: list[str]) -> None:
    """Follow a path such as `.[0].result`; for any other program print the input unchanged."""
    text = sys.stdin.read()
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        for found in _followed(value, arguments[-1]):
            raw = "-r" in arguments and isinstance(found, str)
            print(found if raw else json.dumps(found))  # noqa: T201


def _followed(value: Any, path: str) -> list[Any]:
    if not re.fullmatch(r"(\.(\w+|\[\d*\])|\[\d*\])+", path):
        return [value]
    found = [value]
    for step in re.findall(r"\w+|\[\d*\]", path):
        if step == "[]":
            found = [item for one in found for item in one]
        elif step.startswith("["):
            found = [one[int(step[1:-1])] for one in found]
        else:
            found = [one[step] for one in found]
    return found


def curl(arguments: list[str]) -> None:
    """Send a request with -d and -H; print the answer."""
    (url,) = [one for one in arguments if one.startswith("http")]
    given = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    headers = dict([given["-H"].split(": ", 1)]) if "-H" in given else {}
    body = given["-d"].encode() if "-d" in given else None
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        print(answer.read().decode())  # noqa: T201


def kcat(arguments: list[str]) -> None:
    """Send each line of stdin as a message."""
    from confluent_kafka import Producer

    given = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    assert "-P" in arguments
    producer = Producer({"bootstrap.servers": given["-b"]})
    for line in sys.stdin:
        producer.produce(given["-t"], line.rstrip("\n").encode())
    assert producer.flush(20) == 0


PROGRAMS: dict[str, Callable[[list[str]], None]] = {"jq": jq, "curl": curl, "kcat": kcat}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
