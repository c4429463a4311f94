"""`vidan dead`: failed scenarios and unreadable messages."""
