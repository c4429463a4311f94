"""The week that a scenario belongs to, by the database's clock."""

from __future__ import annotations

THIS_WEEK = "date_trunc('week', now() AT TIME ZONE 'UTC')::date"
"""SQL: the Monday (UTC) of the current week."""
