"""Kill everything, and check that nothing is lost: `python -m tests.chaos --help`.

The run starts a PostgreSQL, a Kafka and an embedded broker, and orchestrators, supervisors and
workers that analyse real videos, while a schedule made from a seed injures them. The exit code is 0
only if every scenario ended as it should, with the rows of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from tests.chaos.figures import table
from tests.chaos.operation import Report, UndisturbedFailed, operate
from tests.chaos.schedule import plan
from tests.chaos.workload import Choice, Expected, default_videos, found_videos, say, works
from tests.support import kafka
from vidan.errors import UsageError

BROKERS = ("embedded", "kafka")
EXAMPLES = """examples:
  python -m tests.chaos --seed 1 --kills 200
  python -m tests.chaos --seed 7 --kills 50 --broker kafka --videos ~/videos --json report.json
  python -m tests.chaos --seed 7 --kills 50 --plan        print the schedule, and end
"""


def main(arguments: list[str] | None = None) -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the schedule and of the work [1]"
    )
    parser.add_argument(
        "--kills",
        type=_positive,
        default=200,
        help="number of injuries, shared by the brokers [200]",
    )
    parser.add_argument("--broker", choices=(*BROKERS, "both"), default="both")
    parser.add_argument("--videos", type=Path, help="folder with videos of your own")
    parser.add_argument("--json", type=Path, help="file for figures, injuries and violations")
    parser.add_argument(
        "--keep", action="store_true", help="keep the logs even if nothing is wrong"
    )
    parser.add_argument("--plan", action="store_true", help="print the schedule and end")
    options = parser.parse_args(arguments)
    brokers = BROKERS if options.broker == "both" else (options.broker,)
    share = _shared(options.kills, len(brokers))
    if options.plan:
        for kills, broker in zip(share, brokers, strict=True):
            for injury in plan(options.seed, kills):
                sys.stdout.write(f"{broker} {injury}\n")
        return 0
    if "kafka" in brokers and (lacking := kafka.fetch()):
        say(f"Error: {lacking}; fix it with: {kafka.INSTALL}, or use --broker embedded")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="vidan-chaos-"))
    kept = options.keep
    try:
        reports = _run(options, brokers, share, folder)
        wrong = any(report.violations for report in reports)
        kept = kept or wrong
        _tell(options, reports, folder)
        return 1 if wrong else 0
    except UsageError as error:
        say(f"Error: {error} ({error.hint})")
        return 2
    except UndisturbedFailed as error:
        kept = True
        say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BaseException:
        kept = True
        raise
    finally:
        if kept:
            say(f"the logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _run(
    options: argparse.Namespace, brokers: tuple[str, ...], share: list[int], folder: Path
) -> list[Report]:
    made = folder / "videos"
    made.mkdir()
    videos = (
        found_videos(options.videos, made, options.seed) if options.videos else default_videos(made)
    )
    expected: Mapping[str, Expected] | None = None
    reports = []
    for broker, kills in zip(brokers, share, strict=True):
        logs = folder / broker
        logs.mkdir()
        choice = Choice(options.seed, works(videos))
        report = operate(
            broker, choice, plan(options.seed, kills), logs, expected, keep=options.keep
        )
        expected = report.expected
        reports.append(report)
    return reports


def _tell(options: argparse.Namespace, reports: list[Report], folder: Path) -> None:
    for report in reports:
        sys.stdout.write(f"\n{report.broker}, seed {options.seed}\n\n{table(report.figures)}\n")
        for one in report.violations:
            where = folder / report.broker
            if one.scenario_id is None:
                say(f"VIOLATION (seed {options.seed}, {report.broker}): {one.text}; logs: {where}")
            else:
                say(
                    f"VIOLATION (seed {options.seed}, {report.broker}): scenario {one.scenario_id}:"
                    f" {one.text}; see {where}/scenario-{one.scenario_id}.txt and the logs"
                    " beside it"
                )
    if options.json:
        content = {
            "seed": options.seed,
            "brokers": {
                report.broker: {
                    "figures": report.figures.as_json(),
                    "injuries": [one.as_json() for one in report.done],
                    "violations": [
                        {"scenario_id": one.scenario_id, "text": one.text}
                        for one in report.violations
                    ],
                }
                for report in reports
            },
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _shared(kills: int, brokers: int) -> list[int]:
    return [kills // brokers + (place < kills % brokers) for place in range(brokers)]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
