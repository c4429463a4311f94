"""`vidan doctor`: what works here, what doesn't, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vidan.cli.command import Commands
from vidan.cli.commands.doctor import machine, services
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.cli.terminal.output import Output

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
    """Say what is reachable, what is installed, what is stuck, and how to mend it.

    Exit code 0: nothing fails (there may be warnings); else that of the first failure: 8 for the
    database, 9 for the broker, 10 for what is installed here. In a pipe: state, check, finding,
    remedy, separated by tabs.
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
        out.note("nothing fails" + (f", {warned} to look at" if warned else ""))
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
