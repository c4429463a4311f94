"""The examples of retries and time limits, run by the installed command on the embedded stack."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import av
import pytest

from tests.support.examples import Up
from vidan.detection import catalogue


class Service(BaseHTTPRequestHandler):
    """A web service with one path, busy for the first two requests."""

    busy: ClassVar[int] = 2
    sent: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/people":
            self.send_error(404)
            return
        if Service.busy:
            Service.busy -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
        else:
            Service.sent.append(json.loads(body))
            self.send_response(201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a web service on this machine."""
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_retries(up: Up, service: str) -> None:
    with up("retries") as example:
        create = ("scenario", "create", "--task", "report", "--param", "people=3", "--wait")
        sent = example.vidan(*create, "--param", f"url={service}/people").strip()
        found = example.show(sent)
        assert (found["result"], found["attempts"]) == (201, 2)
        assert Service.sent == [{"scenario": int(sent), "people": 3}]

        example.vidan(*create, "--param", f"url={service}/nobody", code=5)
        found = example.show("2")
        assert (found["status"], found["attempts"]) == ("failed", 0)
        assert found["error"] == f"{service}/nobody says 404 Not Found"


def test_time_limits(up: Up, tmp_path: Path) -> None:
    lengthen(catalogue.sample_video(), tmp_path / "street.mp4", frames=3_000)
    with up("time_limits") as example:
        shown = example.vidan("tasks", "show", "glance")
        assert "\nsoft_time_limit\t5 s\n" in shown
        assert "\ntime_limit\t1 min\n" in shown

        scenario_id = example.vidan(
            "scenario", "create", "street.mp4", "--task", "glance", "--wait"
        ).strip()

        found = example.show(scenario_id)
        assert found["result"]["complete"] is False
        assert found["result"]["frames"] == found["frames_done"] < 3_000
        assert found["attempts"] == 0


def lengthen(video: Path, path: Path, frames: int) -> None:
    """Write a video that shows its first frame so often that no run finishes it in five seconds."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        picture = next(source.decode(video=0)).reformat(width=320, height=240, format="yuv420p")
        written = target.add_stream("mpeg4", rate=25)
        assert isinstance(written, av.VideoStream)
        written.width, written.height, written.pix_fmt = 320, 240, "yuv420p"
        for number in range(frames):
            picture.pts = number
            target.mux(written.encode(picture))
        target.mux(written.encode())
