"""Every statement that creates a scenario or changes it: docs/protocol.md in SQL."""
