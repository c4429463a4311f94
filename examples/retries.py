"""Retries: report to an unreliable web service how many people were seen.

    vidan up --app retries:app                       in this folder, and in another terminal:
    vidan scenario create --task report --param url=http://localhost:9000 --param people=3 --wait
    vidan scenario history 1

If the service can't be reached, the task is retried five times, after about 1, 2, 4, 8 and 16
seconds. If the service says when to try again, the task waits that long. A refusal is final.
"""

from __future__ import annotations

import json
import urllib.request
from urllib.error import HTTPError

from vidan import Reject, Retry, Run, Vidan

app = Vidan()


@app.task(name="report", source=False, retries=5, retry_on=OSError, retry_backoff_max=60)
def report(run: Run, url: str, people: int) -> int:
    """Send a number to a web service."""
    body = json.dumps({"scenario": run.scenario_id, "people": people}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        if error.code == 503:
            raise Retry(after=float(error.headers.get("Retry-After", 30))) from error
        if error.code < 500:
            raise Reject(f"{url} says {error.code} {error.reason}") from error
        raise  # an HTTPError is an OSError: the task is retried
