"""Runs an app's tasks in the process of a test, on a PostgreSQL of the test's own."""
