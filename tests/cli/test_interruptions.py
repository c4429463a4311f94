"""Ctrl-C and SIGTERM reach a command whatever the interpreter is doing."""

from __future__ import annotations

import signal
import sys
import weakref

import pytest

from vidan.cli import interruptions, main


class Lock:
    """As that of a module that is being imported: a callback runs when it goes."""


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGTERM, interruptions.Terminated), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_in_a_callback_of_the_interpreter_is_not_lost(
    number: signal.Signals, kind: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def callback(_: weakref.ref[Lock]) -> None:
        called.append(number)
        signal.raise_signal(number)

    lock = Lock()
    reference = weakref.ref(lock, callback)
    with pytest.raises(kind), interruptions.raised():
        del lock
        while True:  # what was dropped would leave the command here
            assert reference() is None
    assert called == [number]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_a_class_that_is_being_made_wraps_is_an_interruption_still(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            signal.raise_signal(number)

    def call(_: list[str]) -> None:
        type("Imported", (), {"field": Field()})

    monkeypatch.setattr(main, "_call", call)
    assert main.main(["doctor"]) == code


def test_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(SystemExit, match="143"), interruptions.raised():
        signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_other_errors_of_callbacks_are_shown_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_type))

    def callback(_: weakref.ref[Lock]) -> None:
        raise ValueError

    lock = Lock()
    reference = weakref.ref(lock, callback)
    with interruptions.raised():
        del lock
    assert reference() is None
    assert shown == [ValueError]
