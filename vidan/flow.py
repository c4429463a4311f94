"""Groups of scenarios, and what follows on them. The code is in `vidan.tasks.flow`."""

from __future__ import annotations

from vidan.tasks.flow import group, start

__all__ = ["group", "start"]
