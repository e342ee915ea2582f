"""etcd is put back to an older state while operator and trainers go on: only the log knows which epochs were used since."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localcloud.controlplane import ControlPlane
from spottune_contract.env import RunEnv
from spottune_contract.exitcodes import ExitCode
from tests.fixtures.operator_process import Jobs, OperatorProcess
from tests.fixtures.trainerprocess import Bench, Job, Trainer

pytestmark = [pytest.mark.cluster, pytest.mark.storage, pytest.mark.process, pytest.mark.long]

Start = Callable[..., OperatorProcess]


class Backup:
    """etcd's data directory as it was at one moment."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane, self._folder = plane, folder
        etcd = plane.etcd()
        etcd.stop()
        shutil.copytree(plane.home.data("etcd"), folder)
        etcd.start()
        plane.apiserver().await_ready()

    def restore(self) -> None:
        self._plane.down()
        data = self._plane.home.data("etcd")
        shutil.rmtree(data)
        shutil.copytree(self._folder, data)
        self._plane.up()


class Kubelet:
    """Runs the real trainer of a pod, with the environment that the operator wrote into it, and reports how it ended."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self._jobs, self._job = jobs, job

    def start(self, name: str) -> Trainer:
        pod = self._jobs.run(name)
        environ = {v.name: v.value.replace("$$", "$") for v in pod.spec.containers[0].env if v.value is not None}
        env = RunEnv.from_environ(environ)
        same = ("cluster", "namespace", "job", "job_uid", "min_slot", "run_spec")
        values: dict[str, Any] = {field: getattr(env, field) for field in same}
        return self._job.start(env.epoch, pod_uid=pod.metadata.uid, node=pod.spec.node_name, **values)

    def ended(self, name: str, trainer: Trainer, code: ExitCode) -> Any:
        word = trainer.ended(code)
        self._jobs.finish(name, code, word)
        return word


def test_f52_after_etcd_went_back_the_operator_jumps_past_every_epoch_in_the_log(
    start_operator: Start, jobs: Jobs, control_plane: ControlPlane, twinless_bench: Bench, tmp_path: Path
) -> None:
    """Three attempts claim; etcd forgets two of them. The second attempt is made again and must not train."""
    operator = start_operator().await_ready()
    job = twinless_bench.job(checkpoint={"everySteps": 1})
    kubelet = Kubelet(jobs, job)
    jobs.create(**job.spec)
    first = kubelet.start("job-e1-0")
    first.at_step(2)
    first.signal(signal.SIGSTOP)
    backup = Backup(control_plane, tmp_path / "backup")
    first.signal(signal.SIGCONT)
    assert jobs.status()["attempt"] == 1
    first.signal(signal.SIGTERM)
    kubelet.ended("job-e1-0", first, ExitCode.YIELDED)
    second = kubelet.start("job-e2-0")
    second.at_step(4)
    second.signal(signal.SIGTERM)
    kubelet.ended("job-e2-0", second, ExitCode.YIELDED)
    third = kubelet.start("job-e3-0")
    third.at_step(6)
    third.signal(signal.SIGKILL)
    third.wait()
    backup.restore()
    assert (jobs.status()["attempt"], [pod.metadata.name for pod in jobs.pods()]) == (1, ["job-e1-0"])
    jobs.vanish("job-e1-0")
    again = kubelet.start("job-e2-0")
    word = kubelet.ended("job-e2-0", again, ExitCode.EPOCH_STALE)
    assert word.log is not None
    assert word.log.max_epoch == 3
    last = kubelet.start("job-e4-0")
    done = kubelet.ended("job-e4-0", last, ExitCode.DONE)
    assert done.resumed_from_step >= 5, "from what the forgotten third attempt committed"
    status = jobs.await_phase("Succeeded")
    assert (status["attempt"], status.get("failures", 0)) == (4, 0)
    assert [(entry["epoch"], entry["verdict"]) for entry in status["attempts"]] == [
        (1, "Interrupted"),
        (2, "EpochStale"),
        (4, "Succeeded"),
    ]
    assert operator.exit_code() is None, "it went on all the time"
