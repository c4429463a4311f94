"""One worker process: it claims scenarios, runs them in slots and writes how they ended."""
