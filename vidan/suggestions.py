"""Suggestions: known names that are close to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 12
"""Most names that are listed if no name is close."""

LONGEST = 200
"""Most characters of a name that is compared: the time grows with the square of its length."""


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three close names, regardless of case; `b` is close to `a/b` too."""
    if len(name) > LONGEST:
        return []
    import difflib  # needed only after a mistake

    wanted = name.lower()
    found = []
    for part in (str.lower, lambda one: one.lower().replace("/", ".").rpartition(".")[2]):
        spelled = {part(candidate): candidate for candidate in known}
        found += [spelled[match] for match in difflib.get_close_matches(wanted, spelled, 3)]
    return list(dict.fromkeys(found))[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the close names, `did you mean a or b?`, or with the known names."""
    known = list(known)
    if close := close_names(name, known):
        return f"did you mean {' or '.join(close)}?"
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    are = "there is" if len(known) == 1 else "there are"
    return f"{are} {', '.join(known[:SHOWN])}{more}." if known else "there are none."
