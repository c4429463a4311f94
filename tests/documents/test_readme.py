"""Commands that the README and docs/ tell people to type work: each section is one session.

A command that is added to a document is run without further ado. Commands that can't be run here
(make, pip, apt-get, docker, pytest) are checked by NOT_RUN; all others in a block go to bash.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import typer

from tests.support import kafka
from tests.support.documents import (
    DOCUMENTS,
    ROOT,
    Block,
    blocks,
    commands,
    inline_commands,
    links,
    sections,
)
from tests.support.ports import free_port
from tests.support.reader import CLIP_FRAMES, EXAMPLE_APP, Terminal, reader_folder, terminal
from vidan import errors
from vidan.cli import failures, following
from vidan.cli.main import app

__all__ = ["reader_folder", "terminal"]

OWN_SERVICES = "README.md: In production"
FIRST_SYSTEM = "docs/coming-from-the-first-system.md: Coming from the first system"
SECURED = "docs/settings.md: Settings"

READY = {
    "up": "the stack is up",
    "worker": "registered as",
    "api": "listening on",
    "orchestrator": "",
}
"""Commands that run until they are stopped, and what each prints once it is ready."""

# --- commands


def make(words: list[str]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pip(words: list[str]) -> None:
    assert words[:2] == ["pip", "install"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[2:]:
        wanted = re.fullmatch(r"(\w+|\.)(?:\[(.+)\])?", word)
        assert wanted is not None and wanted[1] in (project["name"], "."), word
        extras = set(wanted[2].split(",")) if wanted[2] else set()
        assert extras <= set(project["optional-dependencies"]), word


def apt_get(words: list[str]) -> None:
    known = f"{kafka.INSTALL} make {(ROOT / 'Makefile').read_text(encoding='utf-8')}"
    assert words[1] == "install"
    assert all(package in known for package in words[2:])


def docker(words: list[str]) -> None:
    assert words[1:3] == ["compose", "up"]
    assert (ROOT / "compose.yaml").is_file()


def pytest_of(words: list[str]) -> None:
    """CI runs these tests anyway: here their files only have to exist."""
    assert words[1:3] == ["-m", "pytest"]
    assert all((ROOT / word).is_file() for word in words[3:] if word.startswith("tests/"))


NOT_RUN: Mapping[str, Callable[[list[str]], None]] = {
    "make": make,
    "pip": pip,
    "apt-get": apt_get,
    "docker": docker,
    ".venv/bin/python": pytest_of,
}
"""Commands that a test can't run, and the function that checks each as far as possible."""


def prepared(command: str) -> str:
    """The command as the script runs it: checked instead, started as a service, or as it is."""
    words = shlex.split(command, comments=True)
    assigned = [word for word in words if re.match(r"[A-Z_]+=", word)]
    called = words[len(assigned) :] if words[: len(assigned)] == assigned else words
    if called and called[0] in NOT_RUN:
        NOT_RUN[called[0]](called)
        return ":"
    if called[:2] in (["vidan", "run"], ["vidan", "up"], ["vidan", "worker"]):
        called += ["--cpus", "1"]  # to ask for GPUs loads torch, which takes seconds each time
    if called[:2] == ["vidan", "run"]:
        return shlex.join(called)
    if len(called) > 1 and called[0] == "vidan" and called[1] in READY:
        return shlex.join(["service", READY[called[1]], "env", *assigned, *called])
    return command


def script(section: list[Block], substitutes: Mapping[str, str]) -> str:
    """A section's commands, with names of the documents replaced by those of the test."""
    lines = []
    for block in section:
        text = block.text
        for written, meant in substitutes.items():
            text = text.replace(written, meant)
        exchanged = Block(block.document, block.heading, block.language, text)
        lines += [prepared(command) for command in commands(exchanged)]
    return "\n".join(lines)


def on_the_stack(terminal: Terminal) -> dict[str, str]:
    """Names in the documents, and what replaces each of them in the tests."""
    port = free_port()
    return {
        "localhost:9092": terminal.bootstrap_servers,
        "localhost:8000": f"localhost:{port}",
        " vidan api": f" vidan api --port {port}",
        "/videos": str(terminal.folder / "videos"),
    }


SPECIAL = (OWN_SERVICES, FIRST_SYSTEM, SECURED)


@pytest.mark.parametrize("place", [place for place in sections() if place not in SPECIAL])
def test_a_section_can_be_typed_as_it_stands(place: str, terminal: Terminal) -> None:
    variables = {}
    if any("$DATABASE_URL" in block.text for block in sections()[place]):
        variables["DATABASE_URL"] = terminal.database_url
    done = terminal.run(script(sections()[place], on_the_stack(terminal)), **variables)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Error" not in done.stderr
    assert '"detail":' not in done.stdout, "curl takes an error of the HTTP interface for an answer"


@pytest.mark.kafka
def test_own_services_can_be_set_up_as_it_stands(
    terminal: Terminal, empty_database_url: str, real_kafka: kafka.RealKafka
) -> None:
    substitutes = {
        "postgresql://vidan:secret@localhost:5432/vidan": empty_database_url.replace("&", r"\&"),
        "localhost:9092": real_kafka.bootstrap_servers,
        "--replication 3": "--replication 1",  # it has one node
    }
    done = terminal.run(script(sections()[OWN_SERVICES], substitutes))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[0:3] == ["scenarios", "retry_topic", "1"]


def test_the_first_systems_way_can_still_be_gone(
    terminal: Terminal, empty_database_url: str, embedded_broker: kafka.HostedBroker
) -> None:
    done = terminal.run(
        script(sections()[FIRST_SYSTEM], {}),
        DATABASE_URL=empty_database_url,
        KAFKA_BOOTSTRAP_SERVERS=embedded_broker.bootstrap_servers,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert f"completed: {CLIP_FRAMES} frames" in done.stderr


def test_settings_of_a_secured_kafka_reach_the_client(terminal: Terminal) -> None:
    exports, *rest = sections()[SECURED]
    done = terminal.run(script([exports], on_the_stack(terminal)))
    assert done.returncode == 9, "the broker speaks no TLS"
    assert "ssl" in done.stderr.lower()
    done = terminal.run(script(rest, {}))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_what_a_foreign_producer_sends_ends_nothing_and_starts_nothing(terminal: Terminal) -> None:
    place = "docs/protocol.md: What an event can't do"
    sent = [block for block in sections()[place] if "kcat" in block.text]
    before = terminal.run("vidan scenario history 1").stdout
    assert terminal.run(script(sent, on_the_stack(terminal))).returncode == 0
    done = terminal.run(
        "until vidan dead list | grep -q JSON; do sleep 0.1; done; vidan scenario history 1"
    )
    assert done.stdout == before


# --- code and words


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda block: block.place)
def test_python_in_the_documents_is_right(block: Block, terminal: Terminal) -> None:
    if block.text.startswith("@"):
        assert block.text in EXAMPLE_APP.read_text(encoding="utf-8")
        return
    path = terminal.folder / "block.py"
    path.write_text(block.text.replace("/videos", str(terminal.folder / "videos")))
    done = terminal.run("python block.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_json_in_the_documents_is_json() -> None:
    for block in blocks("json"):
        json.loads(block.text)


def test_every_block_has_a_language_that_is_tested() -> None:
    assert {block.language for block in blocks()} <= {"sh", "python", "json", "text"}


@pytest.mark.parametrize(
    ("document", "command"),
    [(path, command) for path, command in dict.fromkeys(inline_commands())],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_commands_and_options_in_running_text_exist(document: Path, command: str) -> None:
    found = typer.main.get_command(app)
    words = shlex.split(command.replace("…", ""))[1:]
    with found.make_context("vidan", [], resilient_parsing=True) as ctx:
        while words and not words[0].startswith("-") and hasattr(found, "get_command"):
            found = found.get_command(ctx, words[0])
            assert found is not None, f"{document.name}: {command}"
            words = words[1:]
    options = {name for param in found.params for name in (*param.opts, *param.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


def test_variables_in_the_documents_are_read_somewhere() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("vidan", "tests")  # CONTRIBUTING.md names those of the tests
        for path in (ROOT / folder).rglob("*.py")
    )
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\bVIDAN_[A-Z_]+\b", document.read_text(encoding="utf-8"))
    }
    assert {name for name in named if name not in code and "VIDAN_KAFKA_" not in name} == set()


def test_links_lead_somewhere() -> None:
    for document, target in links():
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_table_of_exit_codes_has_them_all() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", DOCUMENTS[0].read_text(encoding="utf-8"), re.MULTILINE)
    listed = {int(code) for row in rows for code in row.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    given = {kind.exit_code for kind in kinds if issubclass(kind, errors.VidanError)}
    own = {0, 5, 6, 7, following.INCOMPLETE, failures.INTERRUPTED, failures.TERMINATED}
    assert listed == given | own
