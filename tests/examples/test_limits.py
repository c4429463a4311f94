"""The example of caps, typed as its first lines say, through the installed command."""

from __future__ import annotations

from tests.support.examples import Up


def test_the_example_keeps_to_its_caps(up: Up) -> None:
    with up("limits", "--slots", 4) as stack:
        films = [
            stack.vidan(
                "scenario", "create", "--task", "archive", "--param", f"camera={name}"
            ).strip()
            for name in ("north", "east", "south", "west")
        ]
        told = stack.vidan(
            "scenario", "create", "--task", "report", "--param", "camera=north", "--wait"
        )
        stack.vidan("scenario", "wait", *films)

        shown = stack.json("tasks", "show", "archive")
        assert (shown["concurrency"], shown["rate_limit"]) == (2, None)
        assert stack.json("tasks", "show", "report")["rate_limit"] == "2/s"
        assert stack.show(told.strip())["result"] == "reported north"
        ran = [stack.show(one)["result"] for one in films]
        for one in ran:
            at_once = [other for other in ran if other["began"] <= one["began"] < other["ended"]]
            assert len(at_once) <= 2
