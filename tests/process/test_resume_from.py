"""A job that starts from a commit of another one: killed while it takes the state over, and then without that other job."""

from __future__ import annotations

import json
import signal

import pytest

from examples.demo.proof import read_log
from spottune_contract.layout import S3Location, job_location
from spottune_contract.records import Commit
from tests.fixtures.exactness import final_state
from tests.fixtures.trainerprocess import Bench, Job
from tests.process.test_cli import spottune

pytestmark = [pytest.mark.process, pytest.mark.storage]


def root(job: Job) -> S3Location:
    return job_location(job.spec["checkpoint"]["storage"], "test", "default", job.uid)


def commits(bench: Bench, job: Job) -> list[Commit]:
    return [record for record in read_log(bench.store.client(), root(job)) if isinstance(record, Commit)]


def test_it_ends_with_the_same_bits_as_the_other_job_and_needs_that_one_only_once(bench: Bench) -> None:
    other = bench.job(checkpoint={"everySteps": 3, "keepLast": 10})
    other.start(1).ended(0)
    start = next(commit for commit in commits(bench, other) if 0 < commit.step < 12)
    job = bench.job(resumeFrom={"location": str(root(other)), "step": start.step})
    first = job.start(1, failpoint="T5:kill")  # all data sent, no COMMIT yet
    assert first.wait() == -signal.SIGKILL
    assert commits(bench, job) == []
    second = job.start(2, failpoint="T7:kill")  # the state of the other job is committed
    assert second.wait() == -signal.SIGKILL
    client = bench.store.client()
    for key in bench.objects(f"{root(other).prefix}/log/"):
        client.delete_object(Bucket=bench.bucket, Key=key)
    word = job.start(3).ended(0)
    assert word.exactness is not None
    assert (word.exactness.reason, word.exactness.parent_step) == ("StateVerified", start.step)

    imported, *later = commits(bench, job)
    assert (imported.reason, imported.step, imported.samples_seen) == ("imported", start.step, start.samples_seen)
    assert imported.origin is not None
    assert (imported.origin.location, imported.origin.slot, imported.origin.save) == (str(root(other)), start.slot, start.save)
    assert all(commit.origin is None for commit in later)
    final, history = final_state(bench, job)
    exact = {name: digest for name, digest in bench.twin.items() if name != "trainer.json"}
    assert {name: digest for name, digest in final.digests.items() if name != "trainer.json"} == exact
    assert len(history["loss"]) == 12
    spottune(bench, job, "verify")
    (shown,) = (record for record in json.loads(spottune(bench, job, "log", "-o", "json").stdout)["log"] if record.get("origin"))
    assert (shown["reason"], shown["origin"]["location"]) == ("imported", str(root(other)))
