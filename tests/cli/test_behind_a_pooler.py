"""The whole way in a database with odd settings of its own, directly and behind a pooler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.cluster import APPS, SAMPLE, SAMPLE_FRAMES, Cluster
from tests.support.http_interface import client_of
from tests.support.odd_settings import make_odd
from tests.support.pooler import Pooler, pooled
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan.api import application
from vidan.config import Settings
from vidan.stack.postgres import PostgresServer

WAYS = ("direct", "transaction", "session")


@pytest.fixture(params=WAYS)
def way(
    request: pytest.FixtureRequest,
    postgres: PostgresServer,
    empty_database_url: str,
    tmp_path: Path,
) -> Iterator[Settings]:
    """Settings of an odd database; in two of three cases a pooler stands before it."""
    make_odd(empty_database_url)
    if request.param == "direct":
        yield Settings(tmp_path, empty_database_url)
        return
    with pooled(postgres, request.param, size=2 if request.param == "transaction" else 30) as made:
        url = made.url(empty_database_url)
        yield Settings(tmp_path, url, direct_database_url=empty_database_url)


@pytest.fixture
def shell(way: Settings, bare: Shell) -> Shell:
    bare.environment.update(way.environment(bare.environment))
    bare.environment["PYTHONPATH"] += f":{APPS}"
    return bare


@pytest.mark.slow
def test_the_whole_way(way: Settings, shell: Shell, tmp_path: Path) -> None:
    assert shell("db", "upgrade").code == 0
    assert shell("db", "check").code == 0
    with closing(Cluster(way, tmp_path)) as cluster:
        cluster.orchestrator()
        cluster.supervisor()
        words = ("--task", "count", "--param", "model=trial:quick", "--label", "a=ä\\b", "--wait")
        created = shell("scenario", "create", SAMPLE, *words, "--key", "only", "--json")
        assert created.code == 0, created.err + cluster.log()
        record = json.loads(created.out.splitlines()[-1])
        one = record["id"]
        assert record["frames_done"] == SAMPLE_FRAMES
        assert datetime.fromisoformat(record["created_at"]).utcoffset() == timedelta()
        assert shell("scenario", "list", "--label", "a=ä\\b", "-q").out == f"{one}\n"
        exported = shell("predictions", "export", one).out.splitlines()
        watched = shell("predictions", "watch", one, "--json").out.splitlines()
        scores = [json.loads(line)["detections"][0]["score"] for line in exported]
        assert len(exported) == len(watched) == SAMPLE_FRAMES
        assert len(set(scores)) > 50
        assert [json.loads(line)["frame"] for line in watched] == list(range(SAMPLE_FRAMES))
        events = shell("events", "--since", "1h", "--no-follow").out.splitlines()
        kinds = [json.loads(line)["to"] for line in events]
        assert kinds.count("completed") == 1

        with closing(application.open_database(way)) as database:
            client = client_of(way, database)
            body = {"status": "init_startup", "task": "add", "params": {"a": 1.5}}
            assert client.post("/scenario/", json=body).status_code == 422
            answer = client.post("/scenario/", json={**body, "params": {"a": 2}})
            assert answer.status_code in (200, 201), answer.text
            another = answer.json()["scenario_id"]
            assert shell("scenario", "wait", another).code == 0
            assert client.get(f"/prediction/{one}/").status_code == 200
        assert cluster.get(another).result == 3
        assert shell("workers", "drain", "--all", "--wait", "--timeout", "60s").code == 0


@pytest.mark.parametrize("way", ["direct", "transaction"], indirect=True)
def test_schedules(way: Settings, shell: Shell, tmp_path: Path) -> None:
    assert shell("db", "upgrade").code == 0
    with closing(Cluster(way, tmp_path)) as cluster:
        cluster.orchestrator()
        cluster.supervisor(app="scheduled:app")
        cluster.query("UPDATE schedules SET next_at = date_trunc('minute', now())")
        query = "SELECT count(*) AS ran FROM scenarios WHERE status = 'completed'"
        assert eventually(lambda: cluster.query(query)[0]["ran"] >= 1, 60), cluster.log()
        (listed,) = json.loads(shell("schedules", "list", "--json").out)
        assert listed["error"] is None
        assert "+00:00" in listed["next_at"]


def test_doctor_tells_which_url_leads_to_a_pooler(
    pooler: Pooler, database_url: str, bare: Shell, empty_database_url: str
) -> None:
    def findings(**variables: str) -> dict[str, tuple[str, str]]:
        ended = bare.run("doctor", "--json", **variables)
        found = json.loads(ended.out)
        return {one["check"]: (one["state"], f"{one['finding']} {one['remedy']}") for one in found}

    url = pooler.url(database_url)
    state, said = findings(DATABASE_URL=url)["pooler"]
    assert state == "warn"
    assert "VIDAN_DIRECT_DATABASE_URL" in said
    state, said = findings(DATABASE_URL=url, VIDAN_DIRECT_DATABASE_URL=database_url)["pooler"]
    assert state == "ok"
    assert findings(DATABASE_URL=database_url).get("pooler") is None
    for wrong in (url, empty_database_url, "postgresql://vidan:geheim@127.0.0.1:1/x"):
        state, said = findings(DATABASE_URL=url, VIDAN_DIRECT_DATABASE_URL=wrong)["pooler"]
        assert state == "fail"
        assert "VIDAN_DIRECT_DATABASE_URL" in said
        assert "geheim" not in said
