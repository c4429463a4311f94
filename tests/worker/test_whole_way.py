"""A scenario's whole way: orchestrator, broker, supervisor, worker, database, as real processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer as RawProducer

from tests.support import recovery
from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.processes import eventually, is_gone
from vidan.broker import connect
from vidan.broker.messages import ORCHESTRATORS_GROUP, RUNNERS_GROUP
from vidan.domain.status import Status
from vidan.services import steering

REFERENCE = Path(__file__).parents[1] / "reference" / "nanodet_reference.json"


def test_detect_gives_the_reference_detections(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    scenario_id = cluster.create(params={"every": 20})

    scenario = cluster.wait(scenario_id, 120)

    assert scenario.status is Status.COMPLETED, scenario.error
    stored = cluster.frames(scenario_id)
    reference = json.loads(REFERENCE.read_text())["frames"]
    assert [frame.frame for frame in stored] == [int(frame) for frame in reference]
    assert scenario.frames_done == scenario.frames_total == len(reference)
    for frame in stored:
        expected = reference[str(frame.frame)]
        assert sorted(one.label for one in frame.detections) == sorted(
            one["label"] for one in expected
        )


def test_a_task_without_a_source_returns_its_result(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    ids = [cluster.create(task="add", params={"a": number}) for number in range(50)]

    assert [cluster.wait(one).result for one in ids] == [number + 1 for number in range(50)]
    assert cluster.statuses(ids[0]) == [
        Status.INIT_STARTUP,
        Status.INIT_STARTUP_PROCESSING,
        Status.ACTIVE,
        Status.COMPLETED,
    ]


def test_a_killed_worker_loses_nothing_and_doubles_nothing(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    undisturbed = cluster.create(task="count")
    cluster.wait(undisturbed)
    scenario_id = cluster.create(task="count", params={"model": "trial:slow"})
    cluster.wait_for_frames(scenario_id, 30)

    os.kill(cluster.worker_pid(), signal.SIGKILL)
    scenario = cluster.wait(scenario_id)

    assert scenario.status is Status.COMPLETED, scenario.error
    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert scenario.frames_done == SAMPLE_FRAMES
    expected = [(one.frame, one.time_ms, one.detections) for one in cluster.frames(undisturbed)]
    assert [
        (one.frame, one.time_ms, one.detections) for one in cluster.frames(scenario_id)
    ] == expected
    assert cluster.statuses(scenario_id).count(Status.INIT_STARTUP_PROCESSING) == 2


def test_another_free_worker_claims_soon_after_a_kill(embedded_cluster: Cluster) -> None:
    embedded_cluster.orchestrator()
    hosts = {host.name for host in recovery.start_hosts(embedded_cluster, "one", "two")}
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:slow"})
    embedded_cluster.wait_for_frames(scenario_id, 10)
    holder = str(embedded_cluster.get(scenario_id).worker)
    (other,) = hosts - {holder}

    os.kill(embedded_cluster.worker_pid(holder), signal.SIGKILL)
    embedded_cluster.wait(scenario_id)

    released, claimed = embedded_cluster.query(
        "SELECT min(at) FILTER (WHERE to_status = 'init_startup' AND from_status IS NOT NULL) AS at"
        " FROM transitions WHERE scenario_id = :id"
        " UNION ALL SELECT max(at) FROM transitions"
        " WHERE scenario_id = :id AND to_status = 'init_startup_processing'",
        id=scenario_id,
    )
    # to wait for the end of a lease would take 10 s and more
    assert (claimed["at"] - released["at"]).total_seconds() < 8, embedded_cluster.log()
    assert embedded_cluster.query(
        "SELECT actor FROM transitions WHERE scenario_id = :id AND"
        " to_status = 'init_startup_processing' ORDER BY id DESC LIMIT 1",
        id=scenario_id,
    ) == [{"actor": other}]


def test_a_stopped_worker_is_fenced_when_it_wakes(embedded_cluster: Cluster) -> None:
    embedded_cluster.orchestrator()
    hosts = {host.name for host in recovery.start_hosts(embedded_cluster, "one", "two")}
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:slow"})
    embedded_cluster.wait_for_frames(scenario_id, 10)
    name = str(embedded_cluster.get(scenario_id).worker)
    (other,) = hosts - {name}
    zombie = embedded_cluster.worker_pid(name)

    os.kill(zombie, signal.SIGSTOP)
    embedded_cluster.query(
        "UPDATE workers SET lease_until = now() - interval '1 second' WHERE name = :name", name=name
    )
    assert eventually(lambda: embedded_cluster.get(scenario_id).worker == other)
    os.kill(zombie, signal.SIGCONT)
    scenario = embedded_cluster.wait(scenario_id)

    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert [one.frame for one in embedded_cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))
    # it registers again, under another id, and works on
    registered = "SELECT 1 FROM workers WHERE name = :name"
    assert eventually(lambda: len(embedded_cluster.query(registered, name=name)) == 2)
    assert not is_gone(zombie)


def test_sigterm_hands_over_without_spending_a_budget(cluster: Cluster) -> None:
    cluster.orchestrator()
    leaving = cluster.supervisor("leaving")
    scenario_id = cluster.create(task="count", params={"model": "trial:slow"})
    cluster.wait_for_frames(scenario_id, 10)

    leaving.terminate()

    assert leaving.wait(20) == 0
    put_back = cluster.get(scenario_id)
    assert put_back.status is Status.INIT_STARTUP
    assert (put_back.attempts, put_back.crashes) == (0, 0)
    cluster.supervisor("next")
    scenario = cluster.wait(scenario_id)
    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert len(cluster.frames(scenario_id)) == SAMPLE_FRAMES


def test_children_hand_over_when_their_supervisor_is_killed(embedded_cluster: Cluster) -> None:
    supervisor = embedded_cluster.supervisor()
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:slow"})
    embedded_cluster.wait_for_frames(scenario_id, 10)
    worker = embedded_cluster.worker_pid()

    supervisor.kill()

    assert eventually(lambda: is_gone(worker), 20)
    scenario = embedded_cluster.get(scenario_id)
    assert scenario.status is Status.INIT_STARTUP
    assert (scenario.attempts, scenario.crashes) == (0, 0)


def test_what_fails_is_restarted_through_the_retry_topic(cluster: Cluster, tmp_path: Path) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    marks = tmp_path / "marks"
    marks.mkdir()
    scenario_id = cluster.create(task="stutter", params={"failures": 2, "marks": str(marks)})

    scenario = cluster.wait(scenario_id)

    assert scenario.status is Status.COMPLETED, scenario.error
    assert len(list(marks.iterdir())) == 2
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


def test_a_spent_budget_is_failed(embedded_cluster: Cluster, tmp_path: Path) -> None:
    embedded_cluster.supervisor()
    marks = tmp_path / "marks"
    marks.mkdir()
    scenario_id = embedded_cluster.create(
        task="stutter", params={"failures": 9, "marks": str(marks)}, max_attempts=1
    )

    scenario = embedded_cluster.wait(scenario_id)

    assert scenario.status is Status.FAILED
    assert scenario.attempts == 2
    assert (scenario.error or "").startswith("ValueError: stuttered (trial.py:")


def test_rejected_is_failed_at_once(embedded_cluster: Cluster) -> None:
    embedded_cluster.supervisor()

    scenario = embedded_cluster.wait(embedded_cluster.create(task="reject"))

    assert scenario.status is Status.FAILED
    assert (scenario.attempts, scenario.error) == (0, "this will never work")


def test_a_stop_keeps_the_checkpoint_and_a_start_goes_on(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    scenario_id = cluster.create(task="swallow")
    cluster.wait_for_frames(scenario_id, 10)

    with cluster.database.begin() as connection:
        steering.stop(connection, scenario_id)
    stopped = cluster.wait(scenario_id, 10)

    assert stopped.status is Status.INACTIVE
    assert 0 < stopped.frames_done < SAMPLE_FRAMES
    with cluster.database.begin() as connection:
        steering.start(connection, scenario_id)
    assert cluster.wait(scenario_id).status is Status.COMPLETED
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


def test_a_task_that_leaves_off_when_asked_to_is_not_completed(
    embedded_cluster: Cluster,
) -> None:
    leaving = embedded_cluster.supervisor("leaving")
    scenario_id = embedded_cluster.create(task="polite")
    embedded_cluster.wait_for_frames(scenario_id, 10)
    leaving.terminate()
    assert leaving.wait(20) == 0
    assert embedded_cluster.get(scenario_id).status is Status.INIT_STARTUP

    embedded_cluster.supervisor("next")
    done = embedded_cluster.get(scenario_id).frames_done
    embedded_cluster.wait_for_frames(scenario_id, done + 10)
    with embedded_cluster.database.begin() as connection:
        steering.stop(connection, scenario_id)
    assert embedded_cluster.wait(scenario_id).status is Status.INACTIVE

    with embedded_cluster.database.begin() as connection:
        steering.start(connection, scenario_id)
    assert embedded_cluster.wait(scenario_id).result == "all"
    assert [one.frame for one in embedded_cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


def test_a_free_worker_takes_what_waits_behind_a_busy_partition(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor("one")
    cluster.supervisor("two")
    busy = cluster.create(task="sleep", params={"seconds": 600})
    assert eventually(lambda: cluster.get(busy).status is Status.ACTIVE)

    for number in range(10):  # whatever partition they fall into, and whosever it is
        started = time.monotonic()
        assert cluster.wait(cluster.create(task="add", params={"a": number})).result == number + 1
        assert time.monotonic() - started < 20
    assert cluster.get(busy).status is Status.ACTIVE


def test_foreign_events_and_garbage_do_no_harm(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor()
    done = cluster.create(task="add", params={"a": 1})
    cluster.wait(done)
    producer = RawProducer({"bootstrap.servers": cluster.settings.bootstrap_servers()})
    garbage = [b"", b"garbage", b"\xff\xfe", b'{"v": 2, "scenario_id": 1}', b'{"v": 1}',
               b'{"v": 1, "scenario_id": 9223372036854775808}']  # fmt: skip
    for topic in ("scenarios", "retry_topic"):
        for payload in garbage:
            producer.produce(topic, payload)
        producer.produce(topic, json.dumps({"v": 1, "scenario_id": done}).encode())
        producer.produce(topic, json.dumps({"v": 1, "scenario_id": 999_999}).encode())
    assert producer.flush(10) == 0

    after = cluster.create(task="add", params={"a": 2})

    assert cluster.wait(after).result == 3
    sql = "SELECT topic, count(*) FROM dead_letters GROUP BY topic ORDER BY topic"
    expected = [{"topic": "retry_topic", "count": 6}, {"topic": "scenarios", "count": 6}]
    assert eventually(lambda: cluster.query(sql) == expected, 60), (
        cluster.query(sql),
        cluster.log(),
    )
    assert cluster.get(done).status is Status.COMPLETED
    # Their offsets are committed too: no later test receives this garbage.
    topics = connect(cluster.settings)
    assert eventually(lambda: topics.lag(RUNNERS_GROUP, "scenarios") == 0, 30)
    assert eventually(lambda: topics.lag(ORCHESTRATORS_GROUP, "retry_topic") == 0, 30)
    assert len(cluster.statuses(done)) == 4


def test_without_a_broker_the_sweep_takes_over(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidan.config import Settings

    nowhere = Settings(tmp_path, database_url, {"bootstrap.servers": "127.0.0.1:1"})
    cluster = Cluster(nowhere, tmp_path)
    try:
        cluster.orchestrator()
        cluster.supervisor()
        assert cluster.wait(cluster.create(task="add", params={"a": 1})).result == 2
        scenario_id = cluster.create(task="count")
        assert cluster.wait(scenario_id).result == {"frames": SAMPLE_FRAMES}
    finally:
        cluster.close()


def test_the_database_away_is_nobodys_fault(embedded_cluster: Cluster, postgres: object) -> None:
    import psycopg

    embedded_cluster.orchestrator()
    embedded_cluster.supervisor()
    scenario_id = embedded_cluster.create(task="count", params={"model": "trial:slow"})
    embedded_cluster.wait_for_frames(scenario_id, 10)
    name = embedded_cluster.query("SELECT current_database() AS name")[0]["name"]
    admin = postgres.url  # type: ignore[attr-defined]

    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        time.sleep(3)
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    scenario = embedded_cluster.wait(scenario_id)

    assert scenario.status is Status.COMPLETED, scenario.error
    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert (scenario.attempts, scenario.crashes) == (0, 0)
    assert [one.frame for one in embedded_cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


def test_one_that_kills_its_process_among_many_slots_fails_alone(
    embedded_cluster: Cluster, tmp_path: Path
) -> None:
    embedded_cluster.orchestrator()
    embedded_cluster.supervisor(slots=4)
    marks = tmp_path / "marks"
    marks.mkdir()
    neighbours = [embedded_cluster.create(task="sleep", params={"seconds": 3}) for _ in range(3)]
    deadly = embedded_cluster.create(task="die", params={"marks": str(marks), "times": 9})
    embedded_cluster.query("UPDATE scenarios SET max_crashes = 2 WHERE id = :id", id=deadly)

    scenario = embedded_cluster.wait(deadly, 90)

    assert scenario.status is Status.FAILED
    assert "ended its worker process 3 times" in (scenario.error or "")
    for neighbour in neighbours:
        assert embedded_cluster.wait(neighbour).result == "slept"


def test_a_file_that_this_host_lacks_is_left_to_others(embedded_cluster: Cluster) -> None:
    embedded_cluster.supervisor()
    scenario_id = embedded_cluster.create(source="/no/such/video.mp4")
    assert eventually(lambda: len(embedded_cluster.statuses(scenario_id)) >= 3, 20), (
        embedded_cluster.log()
    )

    assert embedded_cluster.wait(embedded_cluster.create(task="add", params={"a": 1})).result == 2
    time.sleep(1)
    scenario = embedded_cluster.get(scenario_id)
    assert scenario.status is Status.INIT_STARTUP
    assert len(embedded_cluster.statuses(scenario_id)) == 3  # claimed once, handed over once


def test_predictions_of_a_tasks_own_are_stored_exactly_once_over_a_kill(
    embedded_cluster: Cluster,
) -> None:
    embedded_cluster.orchestrator()
    embedded_cluster.supervisor()
    scenario_id = embedded_cluster.create(task="own", params={"pause": 0.05})
    embedded_cluster.wait_for_frames(scenario_id, 30)

    os.kill(embedded_cluster.worker_pid(), signal.SIGKILL)
    scenario = embedded_cluster.wait(scenario_id)

    assert scenario.status is Status.COMPLETED, scenario.error
    stored = embedded_cluster.frames(scenario_id)
    assert [one.frame for one in stored] == list(range(SAMPLE_FRAMES))
    for one in stored:
        assert one.extra == {"twice": one.frame * 2}
        (found,) = one.detections
        assert (found.label, found.box) == ("mine", (0, 0, one.frame + 1, 2))


def test_two_workers_keep_to_the_caps_of_a_task(cluster: Cluster) -> None:
    cluster.orchestrator()
    cluster.supervisor("both", workers=2, slots=3)
    pairs = [cluster.create(task="pair") for _ in range(12)]
    paced = [cluster.create(task="paced") for _ in range(12)]
    free = [cluster.create(task="add", params={"a": 1}) for _ in range(12)]

    ended = [cluster.wait(one) for one in (*pairs, *paced, *free)]

    assert {one.status for one in ended} == {Status.COMPLETED}
    ran = [one.result for one in ended[: len(pairs)]]
    for began, _ in ran:
        assert sum(first <= began < last for first, last in ran) <= 2
    starts = cluster.query(
        "SELECT extract(epoch FROM t.at)::float8 AS at FROM transitions t JOIN scenarios s"
        " ON s.id = t.scenario_id WHERE s.task = 'paced' AND t.to_status = 'active' ORDER BY t.at"
    )
    times = [one["at"] for one in starts]
    assert len(times) == len(paced)
    for first, last in itertools.combinations(range(len(times)), 2):
        # one second's worth at once, then one every quarter of a second
        assert last - first + 1 <= 4 + 4 * (times[last] - times[first]) + 0.01
