"""compose.yaml, Dockerfile and .dockerignore, as far as they can be checked without an engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from vidan.config import load

ROOT = Path(__file__).resolve().parents[2]
TOKEN = {"VIDAN_API_TOKEN": "secret"}

compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
services: dict[str, dict[str, Any]] = compose["services"]
own = {name: service for name, service in services.items() if service["image"] == "vidan"}


def command_lines(service: dict[str, Any]) -> list[list[str]]:
    """The command lines that a service runs: one, or several that a shell chains with &&."""
    command: list[str] = service["command"]
    if command[:2] != ["sh", "-c"]:
        return [command]
    return [shlex.split(part) for part in command[2].split("&&")]


def test_all_services_are_there_and_no_others() -> None:
    assert set(services) == {
        *("kafka", "kafka-ui", "postgres"),
        *("migrate", "orchestrator", "worker", "api"),
    }
    assert set(own) == {"migrate", "orchestrator", "worker", "api"}


@pytest.mark.parametrize(
    "line", [pytest.param(x, id=shlex.join(x)) for s in own.values() for x in command_lines(s)]
)
def test_every_command_is_one_that_the_cli_has(line: list[str]) -> None:
    assert line[0] == "vidan"
    # An option that the command lacks is refused before --help is heeded.
    command = [sys.executable, "-m", "vidan", *line[1:], "--help"]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    words = [word for word in line[1:3] if word.isalpha()]
    assert f"vidan {' '.join(words)}" in asked.stdout


def test_the_check_of_commands_can_fail() -> None:
    for line in (["no-such-command"], ["worker", "--no-such-option", "2"]):
        command = [sys.executable, "-m", "vidan", *line, "--help"]
        assert subprocess.run(command, capture_output=True).returncode == 2


def test_migrations_and_topics_come_before_the_services_that_need_them() -> None:
    lines = [line[1:3] for line in command_lines(own["migrate"])]
    assert lines == [["db", "upgrade"], ["topics", "create"]]
    assert own["migrate"]["restart"] == "on-failure"
    for name, service in own.items():
        needed = {which: how["condition"] for which, how in service["depends_on"].items()}
        before = {} if name == "migrate" else {"migrate": "service_completed_successfully"}
        assert needed == {"kafka": "service_healthy", "postgres": "service_healthy", **before}
    for name in ("kafka", "postgres", "api"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", own)
def test_every_variable_is_one_that_is_read(name: str, tmp_path: Path) -> None:
    nothing = load(environ={"VIDAN_HOME": "/home"}, cwd=tmp_path)
    for variable, value in own[name]["environment"].items():
        plain = re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", value)
        read = load(environ={"VIDAN_HOME": "/home", variable: plain}, cwd=tmp_path)
        assert read != nothing, f"{variable} changes nothing"


def test_the_addresses_are_those_of_the_services() -> None:
    kafka, postgres = services["kafka"]["environment"], services["postgres"]["environment"]
    advertised = dict(
        listener.split("://") for listener in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert advertised["HOST"] == "localhost:9092"
    listening = kafka["KAFKA_LISTENERS"].split(",")
    for listener, address in advertised.items():
        assert f"{listener}://:{address.split(':')[1]}" in listening
    ui = services["kafka-ui"]["environment"]
    assert ui["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"] == advertised["CONTAINERS"]
    for service in own.values():
        environment = service["environment"]
        assert environment["KAFKA_BOOTSTRAP_SERVERS"] == advertised["CONTAINERS"]
        password = postgres["POSTGRES_PASSWORD"]
        url = urlsplit(environment["DATABASE_URL"].replace(password, "password"))
        assert url.netloc == f"{postgres['POSTGRES_USER']}:password@postgres:5432"
        assert url.path == f"/{postgres['POSTGRES_DB']}"


def test_the_ports_are_those_that_are_documented() -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "kafka": ["127.0.0.1:9092:9092"],  # no password: for this machine alone
        "kafka-ui": ["127.0.0.1:8080:8080"],
        "postgres": ["127.0.0.1:5432:5432"],
        "api": ["8000:8000"],
    }
    assert command_lines(own["api"])[0][2:] == ["--host", "0.0.0.0", "--port", "8000"]


def test_workers_and_the_http_interface_see_the_videos_at_one_place() -> None:
    for name in ("worker", "api"):
        assert "${VIDAN_VIDEOS:-./videos}:/videos:ro" in own[name]["volumes"]
    assert own["api"]["environment"]["VIDAN_SOURCE_ROOTS"] == "/videos"


def test_images_are_pinned() -> None:
    for name, service in services.items():
        if name not in own:
            assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']}"
    assert services["postgres"]["image"].startswith("postgres:18.")
    # Version 18 of the image refuses to start with a volume at …/data.
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_the_file_passes_docker_compose_and_asks_for_the_token() -> None:
    tool = compose_tool()
    if tool is None:
        reason = "docker-compose is missing; apt-get install docker-compose"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    environ = {name: value for name, value in os.environ.items() if name not in TOKEN}
    check = [*tool, "-f", "compose.yaml", "config", "-q"]
    for extra, returncode in ((TOKEN, 0), ({}, 1)):
        checked = subprocess.run(
            check, cwd=ROOT, env={**environ, **extra}, capture_output=True, text=True
        )
        assert min(checked.returncode, 1) == returncode, checked.stderr
    assert "set it to a secret" in checked.stderr


def compose_tool() -> list[str] | None:
    """Docker's own command or the older one, whichever is installed."""
    for tool in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(tool[0]):
            asked = subprocess.run([*tool, "version"], capture_output=True)
            if asked.returncode == 0:
                return tool
    return None


def test_the_image_is_built_from_files_that_are_there_and_not_ignored() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [rule for rule in ignore if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for line in dockerfile.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == let_in
    for name in copied:
        assert (ROOT / name).exists(), name
    for secret in (".env", "tests", ".git", ".venv", "videos"):
        assert not any(fnmatch(secret, name) for name in let_in)


def test_the_image_installs_pinned_versions_and_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 'pip install -c constraints.txt ".[worker,api]"' in dockerfile
    assert re.search(r"^FROM python:3\.11-slim", dockerfile, re.M)
    assert re.search(r"^ARG TORCH_INDEX=$", dockerfile, re.M)
    last_stage = dockerfile.split("\nFROM ")[-1]
    assert re.search(r"^USER vidan$", last_stage, re.M)
    for installing in re.findall(r"pip install (.*)", dockerfile):
        assert installing.startswith("-c constraints.txt ")
