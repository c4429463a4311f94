from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vidan import stack_state
from vidan.config import Settings, load, plain_url, shown_url, sqlalchemy_url
from vidan.errors import DatabaseUnavailable, UsageError

URL = "postgresql://me@db/vidan"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A home in which a stack seems to run: its keeper's lock is held, its state is written."""
    address = tmp_path / "address"
    address.write_text("127.0.0.1:4711\n")
    state = stack_state.StackState(
        keeper_pid=1,
        database_url="postgresql://vidan@/vidan?host=/s",
        complete=True,
        pids={},
        address_file=str(address),
    )
    stack_state.write_state(tmp_path, state)
    with (tmp_path / stack_state.KEEPER_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def settings_from(folder: Path, **environ: str) -> Settings:
    return load(environ={"VIDAN_HOME": str(folder), **environ}, cwd=folder)


def test_the_first_hit_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "DATABASE_URL=postgresql://file/db\nKAFKA_BOOTSTRAP_SERVERS=file:1\nVIDAN_APP=file:app\n"
    )
    from_file = load(environ={}, cwd=tmp_path)
    assert from_file.database_url == "postgresql://file/db"
    assert from_file.bootstrap_servers() == "file:1"
    assert from_file.app == "file:app"

    environ = {"DATABASE_URL": "postgresql://environ/db", "KAFKA_BOOTSTRAP_SERVERS": "environ:1"}
    from_environ = load(environ=environ, cwd=tmp_path)
    assert from_environ.database_url == "postgresql://environ/db"
    assert from_environ.bootstrap_servers() == "environ:1"
    assert from_environ.app == "file:app"

    from_option = load(
        database_url="postgresql://option/db",
        bootstrap_servers="option:1",
        environ=environ,
        cwd=tmp_path,
    )
    assert from_option.database_url == "postgresql://option/db"
    assert from_option.bootstrap_servers() == "option:1"


def test_the_direct_url_is_taken_only_with_the_url_that_it_belongs_to(tmp_path: Path) -> None:
    file = "DATABASE_URL=postgresql://pooler/db\nVIDAN_DIRECT_DATABASE_URL=postgresql://direct/db\n"
    (tmp_path / ".env").write_text(file)
    both = load(environ={}, cwd=tmp_path)
    assert both.require_database() == "postgresql://pooler/db"
    assert both.require_database(direct=True) == "postgresql://direct/db"
    other = {"DATABASE_URL": "postgresql://other/db"}
    assert load(environ=other, cwd=tmp_path).require_database(direct=True) == other["DATABASE_URL"]
    own = {**other, "VIDAN_DIRECT_DATABASE_URL": "postgresql://own/db"}
    assert load(environ=own, cwd=tmp_path).require_database(direct=True) == "postgresql://own/db"
    option = load(environ=own, cwd=tmp_path, database_url="postgresql://option/db")
    assert option.require_database(direct=True) == "postgresql://option/db"
    none = load(environ={"VIDAN_DIRECT_DATABASE_URL": ""}, cwd=tmp_path)
    assert none.require_database(direct=True) == "postgresql://pooler/db"
    (tmp_path / ".env").write_text("VIDAN_DIRECT_DATABASE_URL=postgresql://direct/db")
    assert load(environ={}, cwd=tmp_path).require_database() == "postgresql://direct/db"


def test_no_password_shows_in_what_is_printed_of_settings(tmp_path: Path) -> None:
    secret = dict.fromkeys(
        ("DATABASE_URL", "VIDAN_DIRECT_DATABASE_URL"), "postgresql://u:geheim@a/b"
    )
    assert "geheim" not in repr(settings_from(tmp_path, **secret))
    for name in secret:
        with pytest.raises(UsageError) as caught:
            settings_from(tmp_path, **{**secret, name: "mysql://u:geheim@a/b"})
        assert "geheim" not in f"{caught.value} {caught.value.hint}"


def test_a_variable_set_to_nothing_hides_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={URL}\nKAFKA_BOOTSTRAP_SERVERS=file:1\n")
    settings = settings_from(tmp_path, DATABASE_URL="", KAFKA_BOOTSTRAP_SERVERS="")
    assert settings.database_url is None
    assert settings.bootstrap_servers() is None


def test_librdkafka_settings_by_prefix(tmp_path: Path) -> None:
    settings = settings_from(
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS="a:1,b:2",
        VIDAN_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        VIDAN_KAFKA_SASL_USERNAME="me",
        VIDAN_KAFKA_DEBUG="",
        VIDAN_KAFKA_="nameless",
    )
    assert settings.kafka == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "sasl.username": "me",
    }


def test_the_other_variables(tmp_path: Path) -> None:
    settings = settings_from(
        tmp_path,
        VIDAN_APP="module:app",
        VIDAN_SOURCE_ROOTS="/videos:relative",
        VIDAN_API_TOKEN="secret",
        VIDAN_LOG_JSON="yes",
        VIDAN_LOG_LEVEL="Warning",
    )
    assert settings.home == tmp_path
    assert settings.app == "module:app"
    assert settings.source_roots == (Path("/videos"), tmp_path / "relative")
    assert settings.api_token == "secret"
    assert settings.log_json is True
    assert settings.log_level == "warning"
    assert "secret" not in repr(settings)


def test_a_child_builds_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={URL}\nVIDAN_APP=file:app\nVIDAN_KAFKA_DEBUG=all")
    environ = {
        "VIDAN_HOME": str(tmp_path),
        "DATABASE_URL": "",
        "VIDAN_APP": "",
        "KAFKA_BOOTSTRAP_SERVERS": "a:1",
        "VIDAN_KAFKA_SECURITY_PROTOCOL": "SSL",
        "VIDAN_SOURCE_ROOTS": "/a:/b",
        "VIDAN_LOG_JSON": "1",
        "VIDAN_LOG_LEVEL": "debug",
        "OTHER": "kept",
    }
    settings = load(environ=environ, cwd=tmp_path)
    assert settings.kafka["debug"] == "all"
    assert load(environ=settings.environment(environ), cwd=tmp_path) == settings
    assert settings.environment(environ)["OTHER"] == "kept"

    named = settings_from(tmp_path, DATABASE_URL="postgres://other/db")
    assert load(environ=named.environment(environ), cwd=tmp_path) == named

    # dropped variables and files stay dropped
    bare = replace(settings, database_url=None, kafka={})
    assert load(environ=bare.environment(environ), cwd=tmp_path) == bare


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40ss@db:5433/vidan?sslmode=require",
        "postgres://me:p%40ss@db:5433/vidan?sslmode=require",
        "postgresql+psycopg://me:p%40ss@db:5433/vidan?sslmode=require",
    ],
)
def test_the_accepted_schemes(tmp_path: Path, url: str) -> None:
    rest = "me:p%40ss@db:5433/vidan?sslmode=require"
    assert sqlalchemy_url(url) == f"postgresql+psycopg://{rest}"
    assert plain_url(url) == f"postgresql://{rest}"
    assert settings_from(tmp_path, DATABASE_URL=url).database_url == f"postgresql://{rest}"


def test_a_url_without_a_host_is_kept(tmp_path: Path) -> None:
    url = "postgresql:///vidan?host=%2Ftmp%2Fa%20b"
    assert sqlalchemy_url(url) == "postgresql+psycopg:///vidan?host=%2Ftmp%2Fa%20b"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///vidan.db",
        "mysql+pymysql://me@db/vidan",
        "host=db dbname=vidan",
        "db:5432/vidan",
        "postgresql://",
        "postgresql://me@db:port/vidan",
        "postgresql://me@db:99999/vidan",
        "postgresql://me:secret#1@db/vidan",
        "postgresql://me:secret/1@db/vidan",
        "postgresql://[::1/vidan",
        "postgresql://me:pass@secret@db/vidan",
        "postgresql://me:@secret@db/vidan",
        "postgresql://me:12/secret@db/vidan",
        "postgresql://me:12/secret@db",
        "postgresql://me:12?secret@db/vidan",
        "postgresql://me:12?secret=3@db/vidan",
        "postgresql://me:12?secret",
        "postgresql://me:secret%zz@db/vidan",
        "postgresql://me:sec ret@db/vidan",
        "postgresql://me:[secret]@db/vidan",
        "postgresql://db:1/vidan?password=12@secret:5",
        "postgres:me:secret@db://vidan",
    ],
)
def test_a_malformed_url_is_one_clear_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_from(tmp_path, DATABASE_URL=url)
    message = str(caught.value)
    assert "database URL" in message
    assert "\n" not in message
    assert "secret" not in message.replace(" ", "")
    assert "postgresql://" in (caught.value.hint or "")


def test_what_people_see_of_a_url() -> None:
    assert shown_url("postgresql://me:secret@db:5432/vidan?password=x") == (
        "postgresql://me@db:5432/vidan"
    )
    assert shown_url("postgresql://db/vidan") == "postgresql://db/vidan"


def test_a_wrong_boolean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="VIDAN_LOG_JSON"):
        settings_from(tmp_path, VIDAN_LOG_JSON="perhaps")
    with pytest.raises(UsageError, match="VIDAN_LOG_LEVEL"):
        settings_from(tmp_path, VIDAN_LOG_LEVEL="loud")


def test_an_unreadable_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"VIDAN_APP=\xff\xfe\n")
    with pytest.raises(UsageError, match=r"\.env"):
        load(environ={}, cwd=tmp_path)


def test_no_database_names_both_ways_out(tmp_path: Path) -> None:
    settings = settings_from(tmp_path)
    assert not settings.embedded()
    with pytest.raises(DatabaseUnavailable) as caught:
        settings.require_database()
    assert caught.value.exit_code == 8
    assert "vidan up" in (caught.value.hint or "")
    assert "DATABASE_URL" in (caught.value.hint or "")


def test_the_running_stack_is_used(running: Path) -> None:
    settings = settings_from(running)
    assert settings.embedded()
    assert settings.require_database() == "postgresql://vidan@/vidan?host=/s"
    assert settings.bootstrap_servers() == "127.0.0.1:4711"
    (running / "address").write_text("127.0.0.1:4712\n")
    assert settings.bootstrap_servers() == "127.0.0.1:4712"
    (running / "address").unlink()
    assert settings.bootstrap_servers() is None


def test_with_a_database_the_stack_is_not_used_at_all(running: Path) -> None:
    settings = settings_from(running, DATABASE_URL=URL)
    assert not settings.embedded()
    assert settings.require_database() == URL
    assert settings.bootstrap_servers() is None


def test_a_state_file_without_its_keeper_is_stale(running: Path) -> None:
    with (running / "another").open("w"):
        (running / stack_state.KEEPER_LOCK).unlink()  # the lock that is held is another file now
    settings = settings_from(running)
    assert not settings.embedded()
    assert settings.bootstrap_servers() is None


def test_a_foreign_state_file_is_passed_over(running: Path) -> None:
    (running / stack_state.STATE_FILE).write_text('{"other": 1}')
    assert stack_state.running_stack(running) is None
    (running / stack_state.STATE_FILE).write_text("[")
    assert stack_state.running_stack(running) is None


def test_settings_load_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from vidan import config; config.load().bootstrap_servers();"
        "heavy = {'sqlalchemy', 'pydantic', 'confluent_kafka', 'dotenv', 'typer', 'subprocess'};"
        "print(*heavy & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"VIDAN_HOME": str(tmp_path), "PYTHONPATH": str(Path(stack_state.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == []
