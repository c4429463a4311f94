"""A database whose own settings are as odd as a database's or a role's may be."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

ODD: Mapping[str, str] = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Chatham",
    "search_path": "elsewhere",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1s",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "2s",
    "idle_session_timeout": "20s",
    "transaction_timeout": "2s",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "row_security": "off",
    "session_replication_role": "replica",
    "exit_on_error": "on",
    "gin_fuzzy_search_limit": "1",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "64kB",
}


def make_odd(url: str) -> None:
    """Set all of them for the database, and add a schema whose tables are decoys."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute("CREATE SCHEMA elsewhere")
        for table in ("scenarios", "alembic_version", "workers", "predictions"):
            connection.execute(
                sql.SQL("CREATE TABLE elsewhere.{} (decoy int)").format(sql.Identifier(table))
            )
        for setting, value in ODD.items():
            values = sql.SQL(", ").join(map(sql.Literal, value.split(", ")))
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                    name, sql.SQL(setting), values if "," in value else sql.Literal(value)
                )
            )
