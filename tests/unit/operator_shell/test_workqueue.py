"""The work queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spottune_operator.workqueue import Backoff, Failed, WorkQueue
from tests.fixtures.virtual_time import run_virtually

Look = Callable[[str], "asyncio.Future[float | None]"]


class Looker:
    """Records when each key was looked at."""

    def __init__(self, seconds: float = 0.0, again: float | None = None) -> None:
        self.seconds, self.again = seconds, again
        self.seen: list[tuple[float, str]] = []
        self.active: set[str] = set()
        self.most = 0

    async def __call__(self, key: str) -> float | None:
        assert key not in self.active, "one look per key at a time"
        self.active.add(key)
        self.most = max(self.most, len(self.active))
        self.seen.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(self.seconds)
        self.active.discard(key)
        return self.again

    def times(self, key: str) -> list[float]:
        return [time for time, seen in self.seen if seen == key]


async def _with(queue: WorkQueue[str], seconds: float, script: Callable[[], None] = lambda: None) -> None:
    running = asyncio.create_task(queue.run())
    script()
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_key_added_often_is_looked_at_once() -> None:
    looker = Looker()

    async def scenario() -> None:
        queue = WorkQueue[str](looker)
        await _with(queue, 10, lambda: [queue.add("a") for _ in range(100)] and None)

    run_virtually(scenario())
    assert looker.times("a") == [0.0]


def test_a_key_added_during_its_look_is_looked_at_again_afterwards() -> None:
    looker = Looker(seconds=5)

    async def scenario() -> None:
        queue = WorkQueue[str](looker)

        def script() -> None:
            queue.add("a")
            asyncio.get_running_loop().call_later(2, queue.add, "a")
            asyncio.get_running_loop().call_later(3, queue.add, "a")

        await _with(queue, 30, script)

    run_virtually(scenario())
    assert looker.times("a") == [0.0, 5.0]


def test_the_earliest_of_several_times_counts() -> None:
    looker = Looker()

    async def scenario() -> None:
        queue = WorkQueue[str](looker)

        def script() -> None:
            queue.add("a", 50)
            queue.add("a", 7)
            queue.add("a", 20)

        await _with(queue, 100, script)

    run_virtually(scenario())
    assert looker.times("a") == [7.0]


def test_a_look_says_when_to_look_again() -> None:
    looker = Looker(again=10.0)

    async def scenario() -> None:
        queue = WorkQueue[str](looker)
        await _with(queue, 35, lambda: queue.add("a"))

    run_virtually(scenario())
    assert looker.times("a") == [0.0, 10.0, 20.0, 30.0]


def test_no_more_looks_at_once_than_workers_and_all_get_their_turn() -> None:
    looker = Looker(seconds=1)

    async def scenario() -> None:
        queue = WorkQueue[str](looker, workers=3)
        await _with(queue, 20, lambda: [queue.add(f"k{n}") for n in range(12)] and None)

    run_virtually(scenario())
    assert looker.most == 3
    assert sorted(key for _, key in looker.seen) == sorted(f"k{n}" for n in range(12))
    assert max(time for time, _ in looker.seen) == 3.0


def test_what_is_urgent_comes_before_whatever_else_is_due() -> None:
    looker = Looker(seconds=1)

    async def scenario() -> None:
        queue = WorkQueue[str](looker, workers=1)

        def script() -> None:
            for key in "abcd":
                queue.add(key)
            asyncio.get_running_loop().call_later(1.5, lambda: queue.add("d", urgent=True))
            asyncio.get_running_loop().call_later(1.6, lambda: queue.next_look("late", urgent=True))

        await _with(queue, 20, script)

    run_virtually(scenario())
    assert [key for _, key in looker.seen] == ["a", "b", "d", "late", "c"]


def test_what_is_urgent_wakes_nobody_who_failed_a_moment_ago_and_is_not_lost_while_its_look_is_under_way() -> None:
    looker = Looker(seconds=1)

    async def look(key: str) -> float | None:
        await looker(key)
        if key == "bad":
            raise RuntimeError("cannot")
        return None

    async def scenario() -> None:
        queue = WorkQueue[str](look, backoff=Backoff(first=4, jitter=0), workers=1)

        def script() -> None:
            queue.add("bad")
            for key in ("bad", "good", "other"):
                asyncio.get_running_loop().call_later(1.5, lambda key=key: queue.add(key, urgent=key != "other"))
            asyncio.get_running_loop().call_later(2, lambda: queue.add("good", urgent=True))

        await _with(queue, 5.5, script)

    run_virtually(scenario())
    assert looker.seen == [(0.0, "bad"), (1.5, "good"), (2.5, "good"), (3.5, "other"), (5.0, "bad")]


def test_it_is_full_while_something_due_has_to_wait() -> None:
    looker, full = Looker(seconds=1), []

    async def scenario() -> None:
        queue = WorkQueue[str](looker, workers=2)

        def add(*keys: str) -> None:
            for key in keys:
                queue.add(key)

        running = asyncio.create_task(queue.run())
        for keys in (("a",), ("b", "c"), ()):
            add(*keys)
            await asyncio.sleep(0.1)
            full.append(queue.full)
        await asyncio.sleep(3)
        full.append(queue.full)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(scenario())
    assert full == [False, True, True, False]


def test_a_failing_key_backs_off_and_no_event_shortens_that_and_others_go_on() -> None:
    failures: list[Failed[str]] = []
    looker = Looker()

    async def look(key: str) -> float | None:
        await looker(key)
        if key == "bad":
            raise RuntimeError("cannot")
        return None

    async def scenario() -> None:
        queue = WorkQueue[str](look, backoff=Backoff(first=1, longest=8, jitter=0.5), on_failure=failures.append, chance=lambda: 0.0)

        async def noise() -> None:
            for _ in range(300):
                queue.add("bad")
                queue.add("good")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(noise())
        await _with(queue, 30)
        task.cancel()
        assert queue.set_aside == 1

    run_virtually(scenario())
    assert [round(time) for time in looker.times("bad")] == [0, 1, 3, 7, 15, 23]
    assert [failed.failures for failed in failures] == [1, 2, 3, 4, 5, 6]
    assert len(looker.times("good")) == 300


def test_success_ends_the_backoff() -> None:
    results = [RuntimeError("once"), None]
    times: list[float] = []

    async def look(key: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        result = results.pop(0) if results else None
        if result:
            raise result
        return None

    async def scenario() -> None:
        queue = WorkQueue[str](look, backoff=Backoff(first=4, jitter=0.0))
        asyncio.get_running_loop().call_later(6, queue.add, "a")
        await _with(queue, 10, lambda: queue.add("a"))
        assert queue.set_aside == 0

    run_virtually(scenario())
    assert times == [0.0, 4.0, 6.0]


def test_who_waits_for_the_next_look_is_not_served_by_one_already_under_way() -> None:
    looker = Looker(seconds=5)
    done: list[float] = []

    async def scenario() -> None:
        queue = WorkQueue[str](looker)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        await asyncio.sleep(2)
        await queue.next_look("a")
        done.append(asyncio.get_running_loop().time())
        running.cancel()

    run_virtually(scenario())
    assert done == [10.0]


def test_who_waits_for_a_look_that_throws_gets_its_error() -> None:
    async def look(key: str) -> float | None:
        raise RuntimeError("cannot")

    async def scenario() -> None:
        queue = WorkQueue[str](look)
        running = asyncio.create_task(queue.run())
        with pytest.raises(RuntimeError, match="cannot"):
            await queue.next_look("a")
        running.cancel()

    run_virtually(scenario())


@pytest.mark.parametrize("failures", [1, 2, 10, 1000])
def test_a_backoff_stays_within_its_bounds(failures: int) -> None:
    backoff = Backoff(first=0.2, longest=60, jitter=0.5)
    assert 0.1 <= backoff.seconds(failures, 0.999) <= backoff.seconds(failures, 0.0) <= 60


def test_what_is_forgotten_is_not_looked_at_and_the_queue_can_run_again() -> None:
    looker = Looker()

    async def scenario() -> None:
        queue = WorkQueue[str](looker)
        await _with(queue, 1, lambda: queue.add("soon", 5))
        queue.forget()
        await _with(queue, 10, lambda: queue.add("new"))
        assert len(queue) == 0

    run_virtually(scenario())
    assert [key for _, key in looker.seen] == ["new"]
