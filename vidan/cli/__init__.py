"""The command line: one module a command group, each command parse → service → print.

Nothing here knows SQL, Kafka or torch, and a module is imported only when its command is called.
"""
