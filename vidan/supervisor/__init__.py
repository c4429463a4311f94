"""Keeps a worker process running on every device, and ends those that hang."""
