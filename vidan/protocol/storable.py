"""What PostgreSQL can store as text and as jsonb, told before it is sent there."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_JSON_BYTES = 16 * 2**20
"""Of one value: results and states are written whole, under the time-outs of a worker."""
MAX_LINE = 4_000

# \\u0000 is a NUL; behind another backslash it is text that speaks of one
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)  # dumps would make one a call


def json_text(value: Any) -> str:
    """Return a value as the JSON text that jsonb takes.

    Raises ValueError, in one line, for what is not JSON (NaN, infinity and objects of Python's
    own included), holds a NUL or half a surrogate pair, or is larger than MAX_JSON_BYTES.
    """
    try:
        found = _ENCODER.encode(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not is_text(found) or _ESCAPED_NUL.search(found):
        raise ValueError("a NUL character or half a surrogate pair can't be stored")
    if len(found.encode()) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES // 2**20} MiB")
    return found


def is_text(value: str) -> bool:
    """Tell whether a text column takes it: no NUL, no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def line(value: object) -> str:
    """Return anything, such as an exception, as one line that a text column takes."""
    try:
        said = str(value)
    except Exception:  # a class of somebody's own whose words fail, too
        said = f"{type(value).__name__} that can't be shown"
    found = " ".join(said.split())[:MAX_LINE]
    return found.encode(errors="backslashreplace").decode().replace("\x00", "\\x00")


def is_whole(value: object) -> bool:
    """Whether a number can be stored as an integer: True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)
