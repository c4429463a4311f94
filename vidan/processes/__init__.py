"""Child processes that die with their parent, and the memory that a worker shares with its own."""
