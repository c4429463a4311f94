"""`vidan top`: workers, queues and running scenarios, live."""
