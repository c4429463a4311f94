"""`vidan doctor`: what works here, what doesn't, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vidan.cli.command import Commands
from vidan.cli.commands.doctor import machine, services
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted

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
    """,
)
def doctor(out: Output, settings: Settings) -> int:
    """Check the database, the broker, this machine and stuck scenarios; show how to fix problems.

    Exit code 0: no check failed (there may be warnings); otherwise that of the first failure: 8 for
    the database, 9 for the broker, 10 for this machine. In a pipe: state, check, finding, remedy,
    separated by tabs.
    """
    findings = list(_all(settings))
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


def _all(settings: Settings) -> Iterator[Finding]:
    yield from services.settings_origin(settings)
    readers: dict[str, int] = {}
    yield from services.of_database(settings, readers)
    yield from services.of_broker(settings, readers)
    yield from machine.extras()
    yield from machine.devices()
    yield from machine.decoders()
    yield from machine.weights()
