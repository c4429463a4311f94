"""What the author of an app writes with: the app, its tasks, calls of them, chains and groups."""
