"""The pure parts of the operator's benchmark: what is counted, and how long what has taken."""

from __future__ import annotations

import json

from benchmarks.operator.audit import beside_pods_and_events, but_the_lease, kinds
from benchmarks.operator.etcd import stored
from benchmarks.operator.hollow import swapped
from benchmarks.operator.installation import percentile
from benchmarks.operator.latency import Timing
from benchmarks.operator.trainers import Counts, address


def entry(verb: str, resource: str, subresource: str = "", code: int = 200) -> str:
    where = {"resource": resource, "subresource": subresource}
    return json.dumps({"verb": verb, "objectRef": where, "responseStatus": {"code": code}})


def test_writes_are_counted_by_kind_and_refused_ones_are_none() -> None:
    lines = [entry("update", "finetunejobs", "status")] * 2 + [
        entry("update", "finetunejobs", "status", 409),
        entry("create", "pods", "", 201),
    ]
    writes = kinds([*lines, entry("update", "leases"), entry("create", "events", "", 201)])
    assert writes == {"update finetunejobs/status": 2, "create pods": 1, "update leases": 1, "create events": 1}
    assert but_the_lease(writes) == 4
    assert beside_pods_and_events(writes) == 2


def job(generation: int, observed: int) -> dict[str, object]:
    return {"metadata": {"uid": "u", "generation": generation}, "status": {"observedGeneration": observed}}


def test_an_edit_is_answered_when_its_generation_or_a_later_one_was_observed() -> None:
    timing = Timing()
    timing.edit("u", 2, 1.0)
    timing.edit("u", 3, 2.0)
    timing.job(job(3, 1), 2.5)
    assert (timing.open, sorted(timing.milliseconds(timing.seen, 0.0))) == (2, [500.0, 1500.0])
    timing.job(job(3, 3), 4.0)
    assert (timing.open, sorted(timing.milliseconds(timing.answered, 0.0))) == (0, [2000.0, 3000.0])
    assert timing.milliseconds(timing.answered, 1.5) == [2000.0], "only what was sent since then"


def test_a_touch_of_a_pod_is_seen_and_never_owed_an_answer() -> None:
    timing = Timing()
    timing.touch("p", 7, 1.0)
    timing.pod({"metadata": {"uid": "p"}, "status": {"conditions": [{"type": "Ready", "reason": "Touched7"}]}}, 1.25)
    timing.pod({"metadata": {"uid": "p"}, "status": {}}, 2.0)
    assert (timing.open, timing.milliseconds(timing.seen, 0.0)) == (0, [250.0])


def test_etcd_keeps_no_resource_version() -> None:
    assert stored({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"}}) == {"kind": "Pod", "metadata": {"name": "a"}}


def test_the_longest_gap_counts_a_trainer_that_is_asked_no_more() -> None:
    counts = Counts()
    for ip, now in (("a", 1.0), ("b", 2.0), ("a", 5.0)):
        counts.note(ip, now)
    assert counts.told(6.0) == {"requests": 3, "trainers": 2, "gap": 4.0, "seconds": 5.0}
    assert counts.told(12.0)["gap"] == 10.0


def test_every_trainer_has_an_address_of_its_own() -> None:
    assert len({address(number) for number in range(70_000)}) == 70_000


def test_a_pattern_is_copied_with_other_names() -> None:
    assert swapped({"a": ["job-x", {"b": "x"}]}, [("x", "y")]) == {"a": ["job-y", {"b": "y"}]}


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
