"""The embedded stack behind `vidan up` and `vidan run`: PostgreSQL, broker and orchestrator.

A process that needs the stack joins it (`membership`); a process of its own keeps it running
(`keeper`). Workers are not part of it: `up` and `run` start their own.
"""

from __future__ import annotations

from vidan.stack.membership import Membership, join, running

__all__ = ["Membership", "join", "running"]
