"""Log lines on stderr: text for people, JSON on request."""

from __future__ import annotations

import json as json_module
import logging
import sys
from datetime import UTC, datetime


class _JsonLines(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json_module.dumps(line, ensure_ascii=False)


def configure(*, json: bool = False, level: int = logging.INFO) -> None:
    """Send log records to stderr. To be called once, by a process's main function."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(
        _JsonLines()
        if json
        else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[stream], force=True)
