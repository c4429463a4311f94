from __future__ import annotations

from vidan.backoff import BackOff


def test_pauses_double_up_to_the_longest_and_begin_anew_once_it_worked() -> None:
    back_off = BackOff()
    assert [back_off.pause() for _ in range(6)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    back_off.worked()
    assert back_off.pause() == 0.2
