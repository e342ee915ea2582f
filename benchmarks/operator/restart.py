"""An operator that is started among many jobs: when it acts on all of them, what it writes, and what memory it takes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.operator import audit
from benchmarks.operator.api import JOBS, Api
from benchmarks.operator.hollow import Job, crowd
from benchmarks.operator.installation import Installation, Operator, installation, megabytes
from benchmarks.operator.trainers import Trainers, trainers
from benchmarks.report import Figure
from spottune_operator.tasks import cancelled

SAMPLES = 20
SETTLED = 60.0
"""Seconds after its start at which its memory is read."""


async def answers(api: Api, jobs: Sequence[Job]) -> dict[str, float]:
    """When the operator's answer to the second generation of each of these jobs came by watch."""
    missing, heard = {each.uid for each in jobs}, dict[str, float]()
    async for _, job in api.watch(JOBS):
        uid = job["metadata"]["uid"]
        if uid in missing and (job.get("status") or {}).get("observedGeneration", 0) >= 2:
            missing.discard(uid)
            heard[uid] = time.monotonic()
            if not missing:
                break
    return heard


async def edit(where: Installation, jobs: Sequence[Job]) -> None:
    """A new generation of the spec, as another API server would write it."""
    for each in jobs:
        job = each.job
        edited = job | {"metadata": job["metadata"] | {"generation": 2}, "spec": job["spec"] | {"maxDuration": "100001s"}}
        await where.etcd.put([(each.key, edited)])


async def bare_kopf(where: Installation, count: int) -> float:
    """Megabytes of a kopf that hears of the jobs alone and does nothing."""
    script = Path(__file__).with_name("bare.py")
    process = subprocess.Popen([sys.executable, str(script), str(where.kubeconfig)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for _ in range(count):
            await asyncio.to_thread(process.stdout.readline)
        await asyncio.sleep(2)
        return megabytes(process.pid)[1]
    finally:
        process.kill()
        process.wait()


async def _measure(count: int) -> Sequence[Figure]:
    with trainers() as hollow:
        async with installation() as where, crowd(where, hollow, count) as jobs:
            bare = await bare_kopf(where, count)
            await where.calm()
            return await _restarted(where, hollow, jobs, bare)


async def _restarted(where: Installation, hollow: Trainers, jobs: Sequence[Job], bare: float) -> Sequence[Figure]:
    edited = jobs[:: max(1, len(jobs) // SAMPLES)][:SAMPLES]
    await edit(where, edited)
    await where.calm()
    written = where.audit.size()
    hearing = asyncio.create_task(answers(where.api, edited))
    operator = Operator(where, "--trainer-port", str(hollow.port))
    try:
        await operator.await_leading()
        led = time.monotonic() - operator.began
        heard = await asyncio.wait_for(hearing, 300)
        acting = max(heard.values()) - operator.began
        await asyncio.sleep(max(0.0, SETTLED - (time.monotonic() - operator.began)))
        writes = where.audit.since(written)
        now, most = operator.memory()
        needless = (
            audit.but_the_lease(writes) - writes["update finetunejobs/status"] + max(0, writes["update finetunejobs/status"] - len(edited))
        )
    finally:
        operator.kill()
        await cancelled([hearing])
    size = f"{len(jobs):,} jobs and their pods"
    return [
        Figure(
            f"restart with {size}: acting on all",
            acting,
            "s",
            goal=15,
            detail=f"from the start of the process to the last answer to {len(edited)} specs, spread over all jobs, that were edited "
            f"while no operator ran (median {sorted(heard.values())[len(heard) // 2] - operator.began:.1f} s); it led after {led:.1f} s",
        ),
        Figure("writes of a restart to jobs that need none", needless, "", goal=0, detail=f"in {SETTLED:g} s: {audit.told(writes)}"),
        Figure(f"memory at {size}", most, "MB", goal=400, detail=f"at most; {now:.0f} MB after {SETTLED:g} s"),
        Figure("the same of a bare kopf, the jobs alone", bare, "MB", detail="one on.event handler that does nothing, lists paged alike"),
    ]


def measure(quick: bool) -> Sequence[Figure]:
    """10,000 jobs; if `quick`, 200."""
    return asyncio.run(_measure(200 if quick else 10_000))
