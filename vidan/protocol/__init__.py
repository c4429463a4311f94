"""docs/protocol.md in SQL: every statement that creates a scenario or changes its status."""
