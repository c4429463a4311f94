"""Requests a second of the HTTP interface: reading the predictions of 200 frames.

    python benchmarks/http_reads.py [--seconds S] [--connections N] [--json FILE]

A real `vidan api` and a PostgreSQL of its own, which keeps its data on disk. `wrk` (Debian's
package of that name) asks on one kept connection first, and then on several at once; it runs on the
same machine, and its processor time is in the figures. Each frame has two detections.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.durable_postgres import durable_postgres  # noqa: E402
from tests.support.played_worker import PlayedWorker  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from vidan.db import schema  # noqa: E402
from vidan.db.session import Database  # noqa: E402
from vidan.protocol import creation  # noqa: E402
from vidan.protocol.creation import NewScenario  # noqa: E402

FRAMES = 200
FOUND = 2
"""Detections of one frame."""


@contextmanager
def served(url: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `vidan api`, and yield its address and its process."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "DATABASE_URL": url, "VIDAN_DOTENV": "0"}
    server = subprocess.Popen(
        [sys.executable, "-m", "vidan", "api", "--port", str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(30)


def store(url: str) -> None:
    """Create a scenario with FRAMES stored frames; its id is 1."""
    schema.upgrade(url)
    database = Database(url)
    worker = PlayedWorker(database, source="/videos/street.mp4")
    with database.begin() as connection:
        creation.create(connection, NewScenario())
    worker.claim()
    worker.store(range(FRAMES), found=FOUND)
    database.close()


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def asked(
    address: str, server: psutil.Process, connections: int, seconds: int
) -> dict[str, float | int]:
    """Ask for `seconds` on that many connections. Raises RuntimeError if an answer was no 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", address]
    before = processor_seconds(server)
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = processor_seconds(server) - before
    if "Non-2xx" in found or "Socket errors" in found:
        raise RuntimeError(found)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", found)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", found)
    count = re.search(r"(\d+) requests in", found)
    assert rate and median and count, found
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]
    return {
        "connections": connections,
        "per_second": float(rate[1]),
        "processor_ms": round(used / max(1, int(count[1])) * 1000, 2),
        "median_ms": round(float(median[1]) * scale, 2),
    }


def main() -> None:
    """Print a line for each number of connections."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with durable_postgres() as postgres:
        url = postgres.url
        store(url)
        with served(url) as (address, server):
            path = f"{address}/prediction/1/"
            rows = [asked(path, server, n, arguments.seconds) for n in (1, arguments.connections)]
    for row in rows:
        print(
            f"GET /prediction/1/, {FRAMES} frames, {row['connections']} connections:"
            f" {row['per_second']:.0f} a second, median {row['median_ms']:.1f} ms,"
            f" {row['processor_ms']:.1f} ms of the server's processor time each"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
