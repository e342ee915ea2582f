"""The real trainer, stopped, killed, paused and resumed: whatever happens, the result is the uninterrupted one's to the bit."""

from __future__ import annotations

import random
import signal
import time

import pytest

from spottune_contract.progress import Termination, TrainerPhase
from tests.fixtures.trainerprocess import Bench, Job, Trainer

pytestmark = [pytest.mark.process, pytest.mark.storage]


def finished_as_twin(word: Termination, bench: Bench) -> None:
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.log.final
    assert word.log.last_commit.digests == bench.twin


def yielded(trainer: Trainer) -> Termination:
    """The trainer ended with 10, and the step it says is the one that is committed."""
    word = trainer.ended(10)
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.step == word.log.last_commit.step
    return word


def interrupted_at(job: Job, step: int) -> None:
    """Attempt 1 is stopped after this step and has committed."""
    trainer = job.start(1)
    trainer.at_step(step)
    trainer.signal(signal.SIGTERM)
    yielded(trainer)


def test_the_command_itself_trains_exports_and_leaves_its_log(bench: Bench) -> None:
    job = bench.job()
    word = job.start(1, command=True).ended(0)
    finished_as_twin(word, bench)
    assert (word.reason, word.step, word.total_steps) == ("Completed", 12, 12)
    assert word.output == job.spec["output"]["destination"]
    tails = {key: body for key, body in bench.objects("jobs/").items() if "/tail/e0001-" in key}
    assert [b'"event": "ended"' in body for body in tails.values()] == [True]


def test_a_stop_a_kill_and_an_early_commit_leave_the_result_of_the_uninterrupted_twin(bench: Bench) -> None:
    job = bench.job(checkpoint={"everySteps": 4})
    interrupted_at(job, 2)
    second = job.start(2)
    second.at_step(6)
    second.signal(signal.SIGKILL)
    assert second.wait() == -9
    third = job.start(3)
    assert third.event("restored")["step"] >= 2
    assert third.post({"source": "rebalance"}) == (202, {"accepted": True, "duplicate": False})
    word = third.ended(0)
    finished_as_twin(word, bench)
    assert word.exactness is not None
    assert (word.exactness.exact, word.exactness.reason) == (True, "StateVerified")


def test_stops_at_random_moments_lose_no_finished_step(bench: Bench) -> None:
    chosen = random.Random(7)
    job = bench.job()
    committed, epoch, code = 0, 0, 10
    while code != 0:
        epoch += 1
        assert epoch <= 12
        trainer = job.start(epoch)
        trainer.event("restored")
        trainer.at_step_or_end(committed + chosen.randint(1, 4))
        time.sleep(chosen.uniform(0.0, 0.1))  # somewhere in the step
        trainer.signal(signal.SIGTERM)
        code = trainer.wait()
        assert code in (0, 10), trainer.words()
        word = trainer.termination()
        assert word.step > committed or word.step == word.total_steps  # stopped between the last step and FINAL
        committed = word.step
    finished_as_twin(word, bench)


@pytest.mark.parametrize("failpoint", ["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T10", "T11", "T12"])
def test_a_kill_at_any_failpoint_of_a_first_attempt_changes_nothing(bench: Bench, failpoint: str) -> None:
    job = bench.job(checkpoint={"everySteps": 2, "keepLast": 2})
    first = job.start(1, failpoint=f"{failpoint}:kill")
    assert first.wait() == -9, first.words()
    assert f"failpoint {failpoint} fired" in first.stderr()
    finished_as_twin(job.start(2).ended(0), bench)


@pytest.mark.parametrize("failpoint", ["T9", "T10", "T5:kill:2"])
def test_a_kill_at_a_failpoint_of_a_resumed_attempt_changes_nothing(bench: Bench, failpoint: str) -> None:
    job = bench.job(checkpoint={"everySteps": 3})
    interrupted_at(job, 2)
    second = job.start(2, failpoint=failpoint if ":" in failpoint else f"{failpoint}:kill")
    assert second.wait() == -9, second.words()
    finished_as_twin(job.start(3).ended(0), bench)


def test_a_paused_trainer_that_comes_back_is_fenced_and_nothing_it_wrote_counts(bench: Bench) -> None:
    job = bench.job(checkpoint={"everySteps": 1})
    old = job.start(1)
    old.at_step(2)
    old.signal(signal.SIGSTOP)
    finished_as_twin(job.start(2).ended(0), bench)
    exported = bench.objects("out/")
    old.signal(signal.SIGCONT)
    word = old.ended(11)
    assert word.reason == "Fenced"
    assert "epoch 2 owns the checkpoint log" in word.message
    # Whoever looks now sees what the successor made.
    again = job.start(3).ended(0)
    assert again.reason == "AlreadyFinal"
    finished_as_twin(again, bench)
    assert bench.objects("out/") == exported


def test_the_same_epoch_twice_ends_the_second_within_seconds_and_leaves_the_first_alone(bench: Bench) -> None:
    job = bench.job()
    first = job.start(1)
    first.event("claimed")
    second = job.start(1).ended(12)
    assert second.reason == "EpochStale"
    finished_as_twin(first.ended(0), bench)


def test_a_stop_before_anything_is_done_says_that_nothing_is_committed(bench: Bench) -> None:
    trainer = bench.job().start(1, failpoint="T2:sleep=2")
    trainer.event("http server up")
    trainer.until(lambda: "T2 fired" in trainer.stderr(), "the claim")
    trainer.signal(signal.SIGTERM)
    word = trainer.ended(30)
    assert (word.reason, word.step) == ("StoppedBeforeFirstCommit", 0)


def test_a_stop_while_loading_a_committed_run_yields_without_loading_on(bench: Bench) -> None:
    job = bench.job()
    interrupted_at(job, 2)
    second = job.start(2)
    second.event("claimed")
    second.signal(signal.SIGTERM)
    word = second.ended(10)
    assert word.reason == "Yielded"
    finished_as_twin(job.start(3).ended(0), bench)


def test_a_stop_while_restoring_yields(bench: Bench) -> None:
    job = bench.job()
    interrupted_at(job, 2)
    second = job.start(2, failpoint="T9:sleep=1")
    second.until(lambda: "T9 fired" in second.stderr(), "the download")
    second.signal(signal.SIGTERM)
    assert yielded(second).step >= 2
    finished_as_twin(job.start(3).ended(0), bench)


def test_second_signals_never_abort_a_save(bench: Bench) -> None:
    job = bench.job()
    trainer = job.start(1, failpoint="T5:sleep=1.5")
    trainer.at_step(3)
    trainer.signal(signal.SIGTERM)
    trainer.until(lambda: "T5 fired" in trainer.stderr(), "the save")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        trainer.signal(number)
        time.sleep(0.1)
    assert yielded(trainer).step >= 3
    finished_as_twin(job.start(2).ended(0), bench)


def test_a_stop_while_exporting_does_not_lose_the_export(bench: Bench) -> None:
    job = bench.job()
    trainer = job.start(1, failpoint="T11:sleep=1")
    trainer.until(lambda: "T11 fired" in trainer.stderr(), "the export")
    trainer.signal(signal.SIGTERM)
    finished_as_twin(trainer.ended(0), bench)
    assert sorted(key.rpartition("/")[2] for key in bench.objects("out/")) == ["adapter_config.json", "adapter_model.safetensors"]


def test_model_and_data_from_the_store_give_the_same_adapter(bench: Bench) -> None:
    client = bench.store.client()
    for path in bench.model.iterdir():
        client.upload_file(str(path), bench.bucket, f"{'data' if path.suffix == '.jsonl' else 'model/tiny'}/{path.name}")
    place = f"s3://{bench.bucket}"
    dataset = {"source": f"{place}/data/train.jsonl", "evalSource": f"{place}/data/eval.jsonl"}
    word = bench.job(model={"source": f"{place}/model/tiny"}, dataset=dataset).start(1).ended(0)
    assert word.log is not None
    assert word.log.last_commit is not None
    for name in ("adapter.safetensors", "optimizer.safetensors", "history.safetensors"):
        assert word.log.last_commit.digests[name] == bench.twin[name]


def test_a_notice_with_a_deadline_is_committed_at_once_and_training_goes_on(bench: Bench) -> None:
    job = bench.job(training={"maxSteps": 60})
    trainer = job.start(1)
    trainer.at_step(2)
    notice = {"source": "imds", "deadline": time.time() + 30}
    assert trainer.post(notice) == (202, {"accepted": True, "duplicate": False})
    assert trainer.post(notice) == (202, {"accepted": True, "duplicate": True})
    commit = trainer.event("committed", reason="notice")
    assert commit["timings"]["notice_to_commit"] < 10
    trainer.at_step(commit["step"] + 2)
    progress = trainer.progress()
    assert progress.phase in (TrainerPhase.TRAINING, TrainerPhase.EVALUATING)
    assert progress.notice_at > 0
    assert progress.checkpoint_seconds > 0
    trainer.signal(signal.SIGTERM)
    assert yielded(trainer).step > commit["step"]
