"""The command line: a command parses its words, calls a service and prints the answer.

Nothing here knows SQL, Kafka or torch. A command's module is imported only when it is called.
"""
