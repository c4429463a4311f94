from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidan.broker import messages
from vidan.broker.envelope import ScenarioEvent, decode
from vidan.broker.messages import encode
from vidan.domain.bounds import MAX_ID


def test_the_wire_is_as_documented() -> None:
    assert encode(42) == b'{"v": 1, "scenario_id": 42}'
    assert messages.SCENARIOS_TOPIC == "scenarios"
    assert messages.RETRY_TOPIC == "retry_topic"
    assert messages.RUNNERS_GROUP == "runners_group"
    assert messages.ORCHESTRATORS_GROUP == "orchestrators_group"


@given(st.integers(min_value=1, max_value=MAX_ID))
def test_what_is_encoded_is_decoded(scenario_id: int) -> None:
    assert decode(encode(scenario_id)) == ScenarioEvent(v=1, scenario_id=scenario_id)


def test_unknown_keys_are_ignored() -> None:
    payload = json.dumps({"later": {"x": [1]}, "scenario_id": 7, "v": 1}).encode()
    assert decode(payload).scenario_id == 7


@pytest.mark.parametrize("scenario_id", [0, -1, MAX_ID + 1])
def test_an_id_that_no_row_can_have_is_not_encoded(scenario_id: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        encode(scenario_id)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (None, "tombstone"),
        (b"", "JSON"),
        (b"\xff\xfe\x00garbage", "JSON"),
        (b"hello\nworld", "JSON"),
        (b'{"v": 1, "scenario_id": 4', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"42", "object"),
        (b"null", "object"),
        (b'[{"v": 1, "scenario_id": 1}]', "object"),
        (b"{}", "v: "),
        (b'{"v": 1}', "scenario_id: "),
        (b'{"scenario_id": 1}', "v: "),
        (b'{"v": 2, "scenario_id": 1}', "v: "),
        (b'{"v": "1", "scenario_id": 1}', "v: "),
        (b'{"v": true, "scenario_id": 1}', "v: "),
        (b'{"v": 1.0, "scenario_id": 1}', "v: "),
        (b'{"v": 1, "scenario_id": 0}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": -5}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": 9223372036854775808}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": 1' + b"0" * 5000 + b"}", "JSON"),
        (b'{"v": 1, "scenario_id": 1.0}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": "1"}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": true}', "scenario_id: "),
        (b'{"v": 1, "scenario_id": null}', "scenario_id: "),
    ],
)
def test_anything_else_is_refused_in_one_line(payload: bytes | None, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        decode(payload)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.one_of(st.none(), st.binary(), st.text().map(str.encode)))
def test_no_payload_raises_anything_but_a_plain_value_error(payload: bytes | None) -> None:
    try:
        decode(payload)
    except ValueError as error:
        assert type(error) is ValueError


def test_a_probe_of_a_broker_loads_no_pydantic() -> None:
    script = """if True:
        import sys
        import vidan.broker.embedded, vidan.broker.kafka, vidan.cli.commands.doctor.probing
        import vidan.cli.commands.doctor.stuck, vidan.services.acknowledged
        print(*sys.modules)
        """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pydantic" not in run.stdout.split()
