"""What the operator writes for the trainer to read, and what the trainer says back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.env import BadEnvironment, RunEnv
from spottune_contract.progress import (
    TERMINATION_MESSAGE_LIMIT,
    CheckpointRequest,
    CommitView,
    ExactnessView,
    LogView,
    Progress,
    Termination,
    TrainerPhase,
)
from spottune_contract.runspec import RunSpec
from spottune_contract.version import CONTRACT_VERSION, IncompatibleContract, check_contract

SPEC = RunSpec.model_validate(
    {
        "model": {"source": "s3://models/smol"},
        "dataset": {"source": "s3://data/train.jsonl"},
        "training": {"maxSteps": 10},
        "checkpoint": {"storage": "s3://bucket/runs"},
    }
)
ENV = RunEnv(
    cluster="eu-1",
    namespace="team",
    job="tune",
    job_uid="uid-1",
    epoch=3,
    min_slot=12,
    image_digest="$(HOME)@sha256:ab",
    run_spec=SPEC,
)


def test_an_environment_is_read_back_as_it_was_written() -> None:
    environ = ENV.to_environ()
    assert RunEnv.from_environ(environ | {"PATH": "/bin"}) == ENV
    assert all(name.startswith("SPOTTUNE_") for name in environ)


def test_pod_uid_and_node_are_left_to_the_downward_api() -> None:
    environ = ENV.to_environ()
    assert "SPOTTUNE_POD_UID" not in environ
    assert "SPOTTUNE_NODE" not in environ
    read = RunEnv.from_environ(environ | {"SPOTTUNE_POD_UID": "pod-1", "SPOTTUNE_NODE": "node-1"})
    assert (read.pod_uid, read.node) == ("pod-1", "node-1")


def test_the_place_of_the_checkpoints_follows_from_the_environment() -> None:
    assert str(ENV.location) == "s3://bucket/runs/eu-1/team/uid-1"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SPOTTUNE_EPOCH": "0"}, "epoch"),
        ({"SPOTTUNE_EPOCH": "three"}, "epoch"),
        ({"SPOTTUNE_CLUSTER": "../x"}, "cluster"),
        ({"SPOTTUNE_MIN_SLOT": "-1"}, "min_slot"),
        ({"SPOTTUNE_RUN_SPEC": "{"}, "run_spec"),
        ({"SPOTTUNE_RUN_SPEC": "null"}, "run_spec"),
        ({"SPOTTUNE_RUN_SPEC": '{"model": {"source": "s3://models/x"}}'}, "dataset"),
    ],
)
def test_a_wrong_variable_is_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(BadEnvironment, match=named):
        RunEnv.from_environ(ENV.to_environ() | change)


@pytest.mark.parametrize("missing", ["SPOTTUNE_EPOCH", "SPOTTUNE_JOB_UID", "SPOTTUNE_RUN_SPEC"])
def test_a_missing_variable_is_an_error(missing: str) -> None:
    environ = ENV.to_environ()
    del environ[missing]
    with pytest.raises(BadEnvironment):
        RunEnv.from_environ(environ)


def test_an_error_never_shows_values() -> None:
    with pytest.raises(BadEnvironment) as error:
        RunEnv.from_environ(ENV.to_environ() | {"SPOTTUNE_EPOCH": "canary-value"})
    assert "canary-value" not in str(error.value)


@pytest.mark.parametrize(
    ("sent", "ok"), [("1.0", True), ("1.99", True), ("2.0", False), ("0.9", False), ("", False), ("x", False), ("10.0", False)]
)
def test_only_the_same_major_version_is_understood(sent: str, ok: bool) -> None:
    if ok:
        check_contract(sent, own="1.0")
        return
    with pytest.raises(IncompatibleContract, match="image"):
        check_contract(sent, own="1.0")


def test_an_incompatible_operator_is_noticed_before_anything_else() -> None:
    with pytest.raises(IncompatibleContract):
        RunEnv.from_environ({"SPOTTUNE_CONTRACT": "99.0"})


LAST = CommitView(
    slot=5,
    epoch=3,
    step=20,
    reason="notice",
    at="2026-01-02T03:04:05Z",
    loss=1.5,
    digests={"adapter.safetensors": "0" * 64},
    timings={"upload": 1.5},
)
LOG = LogView(head_slot=5, max_epoch=3, last_commit=LAST)


def test_a_termination_message_is_read_back_as_it_was_written() -> None:
    said = Termination(
        contract=CONTRACT_VERSION,
        epoch=3,
        writer="0123abcd",
        exit_code=10,
        reason="Interrupted",
        message="committed step 20",
        step=20,
        log=LOG,
    )
    assert Termination.parse(said.encode()) == said


@given(st.text(max_size=6000), st.text(alphabet='aé漢\U0001f600"\\\n', max_size=3000))
def test_a_termination_message_always_fits_and_keeps_the_log(message: str, more: str) -> None:
    exactness = ExactnessView(exact=False, reason="ComputeClassChanged", message="cpu differs", compute_class="x" * 200)
    said = Termination(
        contract=CONTRACT_VERSION, epoch=3, exit_code=24, reason="StorageDenied", message=message + more, log=LOG, exactness=exactness
    )
    text = said.encode()
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT
    read = Termination.parse(text)
    assert read is not None
    assert (read.exit_code, read.reason, read.log) == (24, "StorageDenied", LOG)


def test_a_long_proof_keeps_its_verdict_in_the_termination_message_and_leaves_the_digests_to_the_log() -> None:
    log = LOG.model_copy(update={"last_commit": LAST.model_copy(update={"digests": {f"{n}.safetensors": f"{n}" * 64 for n in range(6)}})})
    proof = ExactnessView(
        exact=False,
        reason="MicroBatchChanged",
        message="m" * 900,
        compute_class="c" * 330,
        parent_slot=57,
        digests={f"{n}.safetensors": f"{n}" * 64 for n in range(6)},
        changed=["microBatch 2 → 4"],
    )
    said = Termination(contract=CONTRACT_VERSION, epoch=3, exit_code=10, reason="Yielded", message="m" * 1500, log=log, exactness=proof)
    read = Termination.parse(said.encode())
    assert read is not None
    assert read == said.model_copy(update={"exactness": proof.model_copy(update={"digests": {}})})


@pytest.mark.parametrize("text", [None, "", "Killed", "{}", "[1]", "{" * 1000, '{"contract": "1.0"}'])
def test_other_text_is_no_termination_message(text: str | None) -> None:
    assert Termination.parse(text) is None


def test_a_newer_trainer_may_say_more_than_this_reader_knows() -> None:
    said = Progress(contract="1.7", job_uid="uid", epoch=1, writer="w", phase=TrainerPhase.TRAINING, log=LOG)
    body = said.model_dump() | {"new_field": 1}
    assert Progress.model_validate(body) == said


@pytest.mark.parametrize("body", [{"source": "IMDS"}, {"source": ""}, {"source": "x" * 33}, {"unknown": 1}, {"deadline": "soon"}])
def test_a_checkpoint_request_with_odd_fields_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        CheckpointRequest.model_validate(body)
