"""The task that does nothing, in each of the systems that `benchmarks/tasks.py` compares.

It returns when its code began, so that its latency can be told. Worker processes load these.
"""
