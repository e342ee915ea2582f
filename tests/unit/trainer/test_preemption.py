"""Who may stop what, and when a step is still finished before the commit. Time is a parameter."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from spottune_contract.progress import CheckpointRequest
from spottune_trainer.preemption import BURST, LONGEST_NOTICE_SECONDS, REFILL_SECONDS, Answer, Preemption, StopRequested, finish_step_first


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def preemption(clock: Clock) -> Preemption:
    return Preemption(monotonic=clock, clock=lambda: clock.now + 1_000_000)


@pytest.fixture
def signalled(preemption: Preemption) -> Iterator[Preemption]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    preemption.install()
    yield preemption
    for number, handler in before.items():
        signal.signal(number, handler)


def ask(preemption: Preemption, source: str = "imds", in_seconds: float | None = 120) -> Answer:
    deadline = None if in_seconds is None else 1_000_100 + in_seconds
    return preemption.notify(CheckpointRequest(source=source, deadline=deadline))


def test_the_first_signal_counts_and_later_ones_change_nothing(signalled: Preemption, clock: Clock) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    first = signalled.stop
    clock.now += 5
    os.kill(os.getpid(), signal.SIGINT)
    assert signalled.stop is first
    assert first is not None
    assert (first.source, first.at, first.reason) == ("sigterm", 100.0, "sigterm")


def test_the_last_moment_is_known_only_of_a_signal_after_a_notice_whose_deadline_lies_ahead(signalled: Preemption, clock: Clock) -> None:
    assert ask(signalled, in_seconds=60) is Answer.ACCEPTED
    assert signalled.last_moment(100) is None, "nobody asked for the end"
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.last_moment(100) == 155.0, "the margin that is left for the kubelet"
    assert signalled.last_moment(20) == 120.0, "the grace period is all that a pod gets"
    clock.now += 61
    assert signalled.last_moment(100) is None


def test_a_signal_alone_or_a_notice_without_a_deadline_tells_no_last_moment(signalled: Preemption) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.last_moment(100) is None
    assert ask(signalled, "rebalance", in_seconds=None) is Answer.ACCEPTED
    assert signalled.last_moment(100) is None


def test_a_signal_leaves_a_section_that_changes_nothing_at_once(signalled: Preemption) -> None:
    def loading() -> None:
        with signalled.leaving_at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                pass

    with pytest.raises(StopRequested):
        loading()


def test_after_a_signal_such_a_section_is_not_entered(signalled: Preemption) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StopRequested), signalled.leaving_at_once():
        pytest.fail("entered")


def test_outside_such_a_section_a_signal_only_leaves_a_mark(signalled: Preemption) -> None:
    with signalled.leaving_at_once():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.stop is not None


def test_the_same_source_and_deadline_again_is_a_duplicate(preemption: Preemption) -> None:
    assert [ask(preemption), ask(preemption), ask(preemption, "sqs")] == [Answer.ACCEPTED, Answer.DUPLICATE, Answer.ACCEPTED]


def test_a_flood_is_refused_and_the_next_one_accepted_after_a_while(preemption: Preemption, clock: Clock) -> None:
    answers = [ask(preemption, in_seconds=100 + number) for number in range(BURST + 3)]
    assert answers == [Answer.ACCEPTED] * BURST + [Answer.TOO_MANY] * 3
    clock.now += REFILL_SECONDS
    assert ask(preemption, in_seconds=500) is Answer.ACCEPTED


def test_a_notice_asks_for_a_commit_and_not_for_the_end(preemption: Preemption) -> None:
    ask(preemption)
    assert preemption.stop is None
    assert preemption.notice is not None
    assert (preemption.notice.deadline, preemption.notice.reason) == (220.0, "notice")


def test_a_notice_with_a_deadline_stays_open_until_then(preemption: Preemption, clock: Clock) -> None:
    ask(preemption)
    notice = preemption.notice
    assert notice is not None
    preemption.answered(notice)
    assert preemption.notice is notice
    clock.now = 221
    preemption.answered(notice)
    assert preemption.notice is None


@pytest.mark.parametrize(("source", "reason"), [("rebalance", "rebalance"), ("user", "request")])
def test_a_request_without_a_deadline_is_answered_once(preemption: Preemption, source: str, reason: str) -> None:
    ask(preemption, source, None)
    notice = preemption.notice
    assert notice is not None
    assert notice.reason == reason
    preemption.answered(notice)
    assert preemption.notice is None


def test_the_more_urgent_notice_counts(preemption: Preemption) -> None:
    ask(preemption, "sqs", 60)
    ask(preemption, "imds", 90)
    ask(preemption, "rebalance", None)
    assert preemption.notice is not None
    assert preemption.notice.source == "sqs"


def test_the_deadline_is_the_notices_else_the_grace_after_the_signal(signalled: Preemption, clock: Clock) -> None:
    assert signalled.deadline(100) is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.deadline(100) == 200.0
    ask(signalled, in_seconds=30)
    assert signalled.deadline(100) == 130.0
    clock.now = 131
    assert signalled.deadline(100) == 200.0


def test_latencies_count_from_whoever_asked_first(signalled: Preemption, clock: Clock) -> None:
    ask(signalled)
    clock.now += 3
    os.kill(os.getpid(), signal.SIGTERM)
    first = signalled.first_notice()
    assert first is not None
    assert (first.source, first.at) == ("imds", 100.0)


@pytest.mark.parametrize(
    ("deadline", "left", "commit", "expected"),
    [
        (None, 0.0, 0.0, True),
        (120.0, 2.0, 3.0, True),
        (112.9, 2.0, 3.0, False),
        (1000.0, 0.0, 3.0, False),
        (1000.0, 2.0, 0.0, False),
        (99.0, 2.0, 3.0, False),
    ],
)
def test_a_step_is_finished_first_only_if_it_surely_fits(deadline: float | None, left: float, commit: float, expected: bool) -> None:
    assert finish_step_first(now=100.0, deadline=deadline, step_seconds_left=left, commit_seconds=commit) is expected


@pytest.mark.parametrize("deadline", ["NaN", "Infinity", "1e999", "-1"])
def test_a_deadline_that_is_no_time_is_refused(deadline: str) -> None:
    with pytest.raises(ValueError, match="deadline"):
        CheckpointRequest.model_validate_json(f'{{"deadline": {deadline}}}')


@pytest.mark.parametrize(("ahead", "kept"), [(1e15, LONGEST_NOTICE_SECONDS), (90, 90), (-30, None)])
def test_a_far_deadline_is_cut_and_a_passed_one_is_none(preemption: Preemption, clock: Clock, ahead: float, kept: float | None) -> None:
    ask(preemption, in_seconds=ahead)
    assert preemption.notice is not None
    assert preemption.notice.deadline == (None if kept is None else pytest.approx(clock.now + kept))
