"""Runs an app's tasks in the process of a test, on a PostgreSQL of the test's own."""

from __future__ import annotations

from vidan.tasks.app import Stack

__all__ = ["Stack"]
