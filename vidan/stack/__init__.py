"""The embedded stack behind `vidan up` and `vidan run`: PostgreSQL, broker and orchestrator.

Who needs it joins (`membership`), a process of its own keeps it (`keeper`). Workers are not part of
it: `up` and `run` start their own.
"""

from __future__ import annotations

from vidan.stack.membership import Membership, join, running

__all__ = ["Membership", "join", "running"]
