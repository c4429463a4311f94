"""The task in Celery. Broker and result backend come from the environment."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery(
    "noops", broker=os.environ["BENCH_CELERY_BROKER"], backend=os.environ["BENCH_CELERY_RESULTS"]
)
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = int(os.environ.get("BENCH_CELERY_PREFETCH", "4"))


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop() -> float:
    """Do nothing; return the time at which that began (seconds since 1970)."""
    return time.time()
