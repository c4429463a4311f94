"""`vidan scenario`: create, follow, start and stop scenarios."""
