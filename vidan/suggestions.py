"""Names that are near a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 12
"""So many names are told where none is near."""


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Three at most that may be meant, whatever the case; `b` is near `a/b`, too."""
    import difflib  # only after a mistake

    wanted = name.lower()
    found = []
    for part in (str.lower, lambda one: one.lower().replace("/", ".").rpartition(".")[2]):
        spelled = {part(candidate): candidate for candidate in known}
        found += [spelled[match] for match in difflib.get_close_matches(wanted, spelled, 3)]
    return list(dict.fromkeys(found))[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names them: `did you mean a or b?`, else what there is."""
    known = list(known)
    if close := close_names(name, known):
        return f"did you mean {' or '.join(close)}?"
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    are = "there is" if len(known) == 1 else "there are"
    return f"{are} {', '.join(known[:SHOWN])}{more}." if known else "there are none."
