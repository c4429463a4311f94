"""`vidan doctor`: what works here, what doesn't, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli.command import Commands
from vidan.cli.commands.doctor import machine, probing, services
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands("doctor")


@commands.command(
    "doctor",
    quiet=False,
    broker=True,
    examples="""
        vidan doctor
        vidan doctor --json | jq '.[] | select(.state != "ok")'
        vidan doctor --ack                     mark what failed as seen
        vidan doctor --probe --stuck           for health checks: only the exit code counts
    """,
)
def doctor(
    out: Output,
    settings: Settings,
    devices: Annotated[
        bool, typer.Option("--devices", help="Ask torch for its devices: loading it takes seconds.")
    ] = False,
    ack: Annotated[
        bool,
        typer.Option(
            "--ack",
            help="Mark failed scenarios and dead letters as seen: later runs tell only new ones.",
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Only ask whether database, broker and orchestrator answer, and how."
        ),
    ] = False,
    stuck: Annotated[
        bool,
        typer.Option("--stuck", help="With --probe: fail too if scenarios wait without a worker."),
    ] = False,
) -> int:
    """Check the database, the broker, this machine and stuck scenarios; show how to fix problems.

    Exit code 0: no check failed (there may be warnings); otherwise that of the first failure: 8 for
    the database, 9 for the broker, 10 for this machine. In a pipe: state, check, finding, remedy,
    separated by tabs.

    With --probe nothing is printed if all is well (exit code 0). Otherwise the first problem is
    told on stderr: 8 for the database, 9 for the broker, 1 for everything else.
    """
    if stuck and not probe:
        raise UsageError("--stuck goes with --probe", hint="without both, all checks are made")
    if probe and (devices or ack):
        raise UsageError("--probe goes with --stuck alone", hint="leave the other options out")
    if probe:
        probing.probe(settings, stuck=stuck)
        return 0
    with out.doing() as tell:
        findings = list(_all(settings, tell, devices=devices, ack=ack))
    out.listing(
        findings,
        {
            "STATE": lambda f: f.state,
            "CHECK": lambda f: f.check,
            "FINDING": lambda f: f.finding,
            "REMEDY": lambda f: f.remedy,
        },
        record=lambda f: {
            "check": f.check,
            "state": f.state,
            "finding": f.finding,
            "remedy": f.remedy,
        },
        id=lambda f: f.check,
        name="checks",
    )
    failed = [finding for finding in findings if finding.state is State.FAIL]
    warned = sum(finding.state is State.WARN for finding in findings)
    if not failed:
        out.note("no check failed" + (f", {counted(warned, 'warning')}" if warned else ""))
        return 0
    return failed[0].exit_code


def _all(
    settings: Settings, tell: Callable[[str], None], *, devices: bool, ack: bool
) -> Iterator[Finding]:
    """Yield all findings; `tell` is called with what is looked at next."""
    yield from services.settings_origin(settings)
    readers: dict[str, int] = {}
    tell("looking at the database")
    yield from services.of_database(settings, readers, ack=ack)
    tell("looking at the broker")
    yield from services.of_broker(settings, readers)
    tell("asking torch for its devices" if devices else "looking at this machine")
    yield from machine.extras()
    yield from machine.devices() if devices else machine.unasked_devices()
    tell("looking at this machine")
    yield from machine.decoders()
    yield from machine.weights()
