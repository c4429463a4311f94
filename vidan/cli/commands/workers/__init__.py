"""`vidan workers`: show workers, change their slots, drain or stop them."""
