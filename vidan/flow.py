"""Chains and groups of scenarios: the public names of `vidan.tasks.flow`."""

from __future__ import annotations

from vidan.tasks.flow import group, start

__all__ = ["group", "start"]
