"""`python -m vidan.supervisor`: started by commands that need workers of their own."""

from __future__ import annotations

import argparse
import json
import logging
import sys

from vidan import config, logs
from vidan.domain.worker import WorkerOptions
from vidan.errors import VidanError
from vidan.supervisor.supervisor import supervise

log = logging.getLogger("vidan.supervisor")


def main(argv: list[str] | None = None) -> int:
    """Supervise the workers that `--posts` describes, until a signal or the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m vidan.supervisor")
    parser.add_argument("--posts", required=True, help="a JSON list of worker options")
    arguments = parser.parse_args(argv)
    settings = config.load()
    logs.configure(settings, "supervisor")
    wanted = [WorkerOptions.from_json(json.dumps(one)) for one in json.loads(arguments.posts)]
    try:
        return supervise(settings, wanted)
    except VidanError as error:
        log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
