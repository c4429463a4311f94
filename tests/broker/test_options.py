from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vidan.broker import connect, options
from vidan.config import Settings
from vidan.errors import UsageError


def kafka(folder: Path, **given: str) -> Settings:
    """Settings of a Kafka that is never contacted, with `_` for `.` in the names."""
    named = {name.replace("_", "."): value for name, value in given.items()}
    return Settings(home=folder, kafka={"bootstrap.servers": "127.0.0.1:1", **named})


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"no_such_thing": "1"}, "VIDAN_KAFKA_NO_SUCH_THING"),
        ({"socket_timeout_ms": "soon"}, "VIDAN_KAFKA_SOCKET_TIMEOUT_MS"),
        ({"socket_timeout_ms": "1", "linger_ms": "3"}, "(VIDAN_KAFKA_SOCKET_TIMEOUT_MS)"),
        ({"security_protocol": "bogus"}, "VIDAN_KAFKA_SECURITY_PROTOCOL"),
        ({"security_protocol": "sasl_ssl"}, "VIDAN_KAFKA_SECURITY_PROTOCOL"),
        (
            {"security_protocol": "sasl_plaintext", "sasl_mechanism": "X"},
            "VIDAN_KAFKA_SASL_MECHANISM",
        ),
        ({"security_protocol": "ssl", "ssl_ca_location": "/no"}, "VIDAN_KAFKA_SSL_CA_LOCATION"),
        ({"error_cb": "x"}, "VIDAN_KAFKA_ERROR_CB"),
        (
            {"session_timeout_ms": "many"},
            "VIDAN_KAFKA_SESSION_TIMEOUT_MS",
        ),  # only a consumer has it
        ({"linger_ms": "many"}, "VIDAN_KAFKA_LINGER_MS"),  # only a producer has it
    ],
)
def test_a_wrong_setting_is_named_by_its_variable(
    given: dict[str, str], variable: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        connect(kafka(tmp_path, **given))
    assert variable in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_auto_commit", "true"),
        ("enable_idempotence", "false"),
        ("acks", "1"),
        ("request_required_acks", "0"),
        ("group_id", "mine"),
        ("transactional_id", "mine"),
        ("partition_assignment_strategy", "range"),
    ],
)
def test_what_the_protocol_needs_cannot_be_set(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"VIDAN_KAFKA_{name.upper()} can't be set"):
        connect(kafka(tmp_path, **{name: value}))


def test_what_the_protocol_needs_may_be_said_again(tmp_path: Path) -> None:
    connect(kafka(tmp_path, enable_auto_commit="False", acks="-1", enable_idempotence="true"))


def test_every_setting_passes_and_wins_over_the_defaults() -> None:
    chosen = options.given(
        {
            "bootstrap.servers": "elsewhere:9092",
            "sasl.password": "secret",
            "session.timeout.ms": "30000",
            "message.timeout.ms": "2000",
            "log.level": "7",
        }
    )
    consumer, producer = options.consumer_options(chosen), options.producer_options(chosen)
    assert consumer["session.timeout.ms"] == "30000"
    assert producer["delivery.timeout.ms"] == "2000"
    assert "message.timeout.ms" not in producer
    assert producer["sasl.password"] == consumer["sasl.password"] == "secret"
    assert producer["log_level"] == "7"
    assert "bootstrap.servers" not in producer
    assert producer["acks"] == "all"
    assert consumer["enable.auto.commit"] == "false"


def test_the_newer_group_protocol_can_be_chosen(tmp_path: Path) -> None:
    connect(kafka(tmp_path, group_protocol="consumer"))


def test_a_database_of_ones_own_never_uses_the_embedded_broker(tmp_path: Path) -> None:
    def kind(settings: Settings) -> str:
        return type(connect(settings)).__name__

    assert kind(Settings(home=tmp_path)) == "EmbeddedBroker"
    assert kind(Settings(home=tmp_path, database_url="postgresql://db/v")) == "KafkaBroker"
    assert kind(kafka(tmp_path)) == "KafkaBroker"
    # The embedded broker ignores librdkafka settings.
    alone = Settings(home=tmp_path, kafka={"security.protocol": "sasl_ssl"})
    assert kind(alone) == "EmbeddedBroker"


def test_importing_the_package_loads_no_kafka_client() -> None:
    code = "import sys, vidan.broker; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
