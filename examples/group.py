"""Several scenarios at once, and one that adds up their results when all have ended.

vidan up --app group:app                         in this folder, and in another terminal:
python group.py 10 20 30
vidan scenario list
"""

from __future__ import annotations

import sys

from vidan import Run, Signature, Vidan, flow

app = Vidan()


@app.task(name="square", source=False)
def square(run: Run, number: int) -> int:
    """Square a number."""
    run.log.info("squaring %d", number)
    return number * number


@app.task(name="total", source=False)
def total(run: Run) -> dict[str, int]:
    """Add up the results of the members. A member that failed has none."""
    results = [member.result for member in run.group if member.status == "completed"]
    return {"members": len(results), "total": sum(results)}


if __name__ == "__main__":
    if not sys.argv[1:] or not all(word.isdecimal() for word in sys.argv[1:]):
        sys.exit("usage: python group.py NUMBER…")
    members = [Signature("square", {"number": int(word)}) for word in sys.argv[1:]]
    for scenario_id in flow.group(members, then=Signature("total")):
        print(scenario_id)
