"""Checks whether PostgreSQL can store a value as text or jsonb, before the value is sent."""

from __future__ import annotations

import json
import re
from typing import Any

from vidan.db.reading import is_too_deep

MAX_JSON_BYTES = 16 * 2**20
"""Most bytes of one JSON value. A worker writes results and states whole, within its statement
time-out."""

MAX_LINE = 4_000
"""Most characters of a one-line text, such as an error."""

# \\u0000 is a NUL; after another backslash it is plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_USER = re.compile(r"://[^/\s'\"]*@")
_PASSWORD = re.compile(r"([?&]password=)[^&\s'\"]+", re.IGNORECASE)

# Kept, because json.dumps would build an encoder at every call.
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


def json_text(value: Any) -> str:
    """Return a value as the JSON text that jsonb takes.

    Raises ValueError, in one line, if the value is not JSON (NaN, infinity, Python objects), holds
    a NUL or half a surrogate pair, or is larger than MAX_JSON_BYTES.
    """
    try:
        found = _ENCODER.encode(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if is_too_deep(found, value):
        raise ValueError("it is nested too deeply")
    if not is_text(found) or _ESCAPED_NUL.search(found):
        raise ValueError("a NUL character or half a surrogate pair can't be stored")
    if len(found.encode()) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES // 2**20} MiB")
    return found


def is_text(value: str) -> bool:
    """Tell whether a text column accepts the value: no NUL, no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def line(value: object) -> str:
    """Return any value, such as an exception, as one line that a text column accepts.

    URLs in it lose user and password.
    """
    try:
        text = str(value)
    except BaseException:  # the class is a user's own, and its __str__ may raise anything
        text = f"{type(value).__name__} that can't be shown"
    found = " ".join(str.split(text))  # of a user's own str, too
    return _accepted(without_secrets(found)[:MAX_LINE])  # half a URL would keep its password


def block(text: str, most: int) -> str:
    """Return text of several lines, `most` characters of it, as a text column accepts it.

    Of a longer text the middle is cut, and a line there says how much. URLs lose user and password.
    """
    found = _accepted(without_secrets(text))
    if len(found) <= most:
        return found
    cut = f"\n… {len(found) - most:,} characters are cut here …\n"
    head = (most - len(cut)) // 3
    return found[:head] + cut + found[len(found) - (most - len(cut) - head) :]


def without_secrets(text: str) -> str:
    """Return a text as people may see it: its URLs lose user and password."""
    if "@" in text:
        text = _USER.sub("://", text)
    return _PASSWORD.sub(r"\1…", text) if "=" in text else text


def _accepted(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\x00", "\\x00")


def is_whole(value: object) -> bool:
    """Tell whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)
