"""A fuzzer of messages, which depends on a seed alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

LARGEST = 900_000
"""Size, in bytes, of the largest message; a little below the default limit of brokers."""


@dataclass(frozen=True)
class Message:
    """A message as a producer sends it. A `bad` one must become a dead letter."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    timestamp_ms: int
    bad: bool


def make(seed: int, count: int, *, any_time: bool = True) -> Iterator[Message]:
    """Yield `count` messages; the same seed gives the same messages.

    With `any_time` some have times in remote centuries, which Apache Kafka refuses.
    """
    random = Random(f"messages {seed}")
    kinds = list(KINDS.values())
    times = [0, 1, 1_700_000_000_000, *([2**42, 253_402_300_800_000] if any_time else [])]
    for number in range(count):
        value, bad = kinds[number % len(kinds)](random)
        if number % 997 == 0:  # only a few, since they are large
            value, bad = random.randbytes(LARGEST), True
        yield Message(
            key=random.choice([None, b"", b"7", b"not a number", random.randbytes(50)]),
            value=value,
            headers=random.choice([[], [("", b"")], [("v", b"\xff\x00")], [("id", b"1")] * 20]),
            timestamp_ms=random.choice(times),
            bad=bad,
        )


def _envelope(random: Random) -> dict[str, object]:
    return {"v": 1, "scenario_id": random.randint(10**6, 10**9)}  # no scenario has such an id


def noise(random: Random) -> tuple[bytes | None, bool]:
    return random.randbytes(random.choice([1, 30, 3000])), True


def tombstone(random: Random) -> tuple[bytes | None, bool]:
    return None, True


def nothing(random: Random) -> tuple[bytes | None, bool]:
    return random.choice([b"", b" ", b"\n", b"\0"]), True


def out_of_range(random: Random) -> tuple[bytes | None, bool]:
    number: object = random.choice(
        [0, -1, -(2**63), 2**63, 2**64, 10**400, "1", 1.5, None, True, [], {}]
    )
    return json.dumps({"v": 1, "scenario_id": number}).encode(), True


def other_version(random: Random) -> tuple[bytes | None, bool]:
    version = random.choice([0, 2, "1", 1.5, None, True, [1]])
    return json.dumps({**_envelope(random), "v": version}).encode(), True


def other_json(random: Random) -> tuple[bytes | None, bool]:
    odd = [b"null", b"[]", b"42", b'"x"', b"{}", b"[" * 5000, b'{"a":' * 5000, b"NaN", b"1e999"]
    return random.choice(odd), True


def cut_off(random: Random) -> tuple[bytes | None, bool]:
    whole = json.dumps(_envelope(random)).encode()
    return whole[: random.randrange(len(whole))], True


def odd_text(random: Random) -> tuple[bytes | None, bool]:
    whole = json.dumps(_envelope(random))
    return random.choice(
        [
            whole.encode("utf-16"),
            b"\xef\xbb\xbf" + whole.encode(),
            whole.replace('"', "'").encode(),
            whole.encode() + b"}",
            whole.encode() * 2,
            b'{"v": 1, "scenario_id": "\\u0000\\ud800"}',
        ]
    ), True


def harmless(random: Random) -> tuple[bytes | None, bool]:
    """A valid message of a scenario that does not exist."""
    return json.dumps({**_envelope(random), "more": random.random()}).encode(), False


KINDS: dict[str, Callable[[Random], tuple[bytes | None, bool]]] = {
    kind.__name__: kind
    for kind in (
        noise,
        tombstone,
        nothing,
        out_of_range,
        other_version,
        other_json,
        cut_off,
        odd_text,
        harmless,
    )
}
