"""A task that does nothing, for each of the systems that `benchmarks/tasks.py` compares.

It returns the time at which its code began, so that latency can be measured. Worker processes load
these modules.
"""
