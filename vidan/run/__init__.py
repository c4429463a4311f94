"""One scenario being run: what its task sees, how frames come in, how commits go out."""
