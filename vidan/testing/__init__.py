"""Tests of apps: `app.testing()` runs their tasks in the test's process."""

from __future__ import annotations

from vidan.tasks.app import Stack

__all__ = ["Stack"]
