"""What the end of a pod means: the whole table."""

from __future__ import annotations

import itertools

import pytest

from spottune_contract.exitcodes import ExitCode, PodEnd, Verdict, verdict

OWN = {
    0: Verdict.SUCCEEDED,
    10: Verdict.INTERRUPTED,
    11: Verdict.FENCED,
    12: Verdict.EPOCH_STALE,
    20: Verdict.BAD_CONFIG,
    21: Verdict.BAD_DATA,
    22: Verdict.DIVERGED,
    23: Verdict.NO_READABLE_CHECKPOINT,
    24: Verdict.STORAGE_DENIED,
}
CODES = [None, *OWN, 30, 1, 2, 137, 143, 255]
CONTAINER_REASONS = ["", "Error", "Completed", "OOMKilled", "ContainerStatusUnknown"]
POD_REASONS = ["", "Evicted", "NodeShutdown", "SomethingElse"]
DISRUPTIONS = ["", "EvictionByEvictionAPI", "PreemptionByScheduler"]


def expected(end: PodEnd) -> Verdict:
    """The rules, written down a second time as a list of what counts first."""
    unknown = end.container_reason == "ContainerStatusUnknown"
    away = end.deleted or end.vanished or end.disruption != "" or end.pod_reason in ("Evicted", "NodeShutdown") or unknown
    if end.exit_code in OWN and not unknown:
        return OWN[end.exit_code]
    if end.container_reason == "OOMKilled":
        return Verdict.OUT_OF_MEMORY
    if away or end.exit_code == 143:
        return Verdict.INTERRUPTED
    return Verdict.FAILED


@pytest.mark.parametrize("code", CODES)
def test_every_combination_has_the_verdict_of_the_rules(code: int | None) -> None:
    for container, pod, disruption, deleted, vanished in itertools.product(
        CONTAINER_REASONS, POD_REASONS, DISRUPTIONS, (False, True), (False, True)
    ):
        end = PodEnd(code, container, pod, disruption, deleted, vanished)
        assert verdict(end) is expected(end), end


@pytest.mark.parametrize(
    ("end", "means"),
    [
        (PodEnd(exit_code=0, deleted=True), Verdict.SUCCEEDED),
        (PodEnd(exit_code=137), Verdict.FAILED),
        (PodEnd(exit_code=137, deleted=True), Verdict.INTERRUPTED),
        (PodEnd(exit_code=137, container_reason="OOMKilled", deleted=True), Verdict.OUT_OF_MEMORY),
        (PodEnd(exit_code=143), Verdict.INTERRUPTED),
        (PodEnd(exit_code=30), Verdict.FAILED),
        (PodEnd(exit_code=30, disruption="EvictionByEvictionAPI"), Verdict.INTERRUPTED),
        (PodEnd(exit_code=24, pod_reason="Evicted"), Verdict.STORAGE_DENIED),
        (PodEnd(exit_code=0, container_reason="ContainerStatusUnknown"), Verdict.INTERRUPTED),
        (PodEnd(vanished=True), Verdict.INTERRUPTED),
        (PodEnd(), Verdict.FAILED),
    ],
)
def test_the_cases_that_matter_most(end: PodEnd, means: Verdict) -> None:
    assert verdict(end) is means


def test_an_interruption_never_spends_a_budget_and_is_never_permanent() -> None:
    for means in (Verdict.INTERRUPTED, Verdict.FENCED, Verdict.EPOCH_STALE):
        assert not means.permanent
        assert not means.spends_failure_budget
        assert not means.counts_as_no_progress


def test_a_permanent_end_spends_no_budget_because_nothing_is_tried_again() -> None:
    permanent = {means for means in Verdict if means.permanent}
    assert permanent == {OWN[code] for code in (20, 21, 22, 23, 24)}
    assert not any(means.spends_failure_budget for means in permanent)


def test_exit_codes_never_collide_with_those_of_signals_or_shells() -> None:
    assert all(code == 0 or 10 <= code < 64 for code in ExitCode)
    assert {int(code) for code in ExitCode} == {*OWN, 30}
