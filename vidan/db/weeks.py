"""The week of a scenario, which names the partition of its predictions."""

from __future__ import annotations

THIS_WEEK = "date_trunc('week', now() AT TIME ZONE 'UTC')::date"
"""SQL: the Monday (UTC) of the current week."""
