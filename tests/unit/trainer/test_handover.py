"""Marks between an attempt and its successor. Time is a parameter where it is waited for."""

from __future__ import annotations

import threading

from spottune_trainer.handover import LOOK_SECONDS, Relief, await_mark


class Sleeper:
    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_mark_ends_the_waiting_at_once() -> None:
    time, answers = Sleeper(), iter([False, False, True])
    assert await_mark(lambda: next(answers), 1060.0, clock=time.clock, sleep=time.sleep)
    assert time.now == 1000.0 + 2 * LOOK_SECONDS


def test_without_a_mark_it_ends_when_the_time_is_up_and_not_before() -> None:
    time = Sleeper()
    assert not await_mark(lambda: False, 1000.6, clock=time.clock, sleep=time.sleep)
    assert round(time.now, 3) == 1000.6


def test_a_mark_is_looked_for_once_even_if_the_time_is_up_already() -> None:
    time = Sleeper()
    assert await_mark(lambda: True, 0.0, clock=time.clock, sleep=time.sleep)
    assert time.now == 1000.0


def test_relief_is_looked_for_from_when_it_is_asked_for_and_asking_takes_no_time() -> None:
    looked, may_answer = threading.Event(), threading.Event()

    def there() -> bool:
        looked.set()
        return may_answer.wait(20)

    relief = Relief(there)
    assert not looked.is_set()
    assert not relief.ready()
    assert looked.wait(20)
    assert not relief.ready()
    may_answer.set()
    while not relief.ready():
        assert not threading.Event().wait(0.01)
