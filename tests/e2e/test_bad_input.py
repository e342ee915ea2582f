"""What a user gets wrong outside of the manifest: the job says what, where and what to do, at once; others are not disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from examples.demo import product
from examples.demo.kube import Kube
from examples.demo.run import remove
from localcloud.home import HOST_ADDRESS, Home
from localcloud.objectstore import ObjectStore
from spottune_cli import view
from spottune_cli.jobs import Jobs
from tests.e2e.waiting import until
from tests.storage.fault_proxy import FaultProxy

# What is wrong → (change of the spec, reason, what the message must name).
BAD: dict[str, tuple[dict[str, dict[str, Any]], str, str]] = {
    "no-model": ({"model": {"source": "s3://spottune/models/nothing-here"}}, "BadConfiguration", "models/nothing-here"),
    "no-data": ({"dataset": {"source": "s3://spottune/data/nothing.jsonl"}}, "BadData", "data/nothing.jsonl"),
    "unreadable-row": ({"dataset": {"source": "s3://spottune/data/broken.jsonl"}}, "BadData", "line 2"),
    "no-bucket": ({"checkpoint": {"storage": "s3://no-such-bucket/runs"}}, "StorageDenied", "no-such-bucket"),
    "no-rights": ({"checkpoint": {"credentialsSecret": "wrong-keys"}}, "StorageDenied", "credentials"),
    "dishonest-store": ({"checkpoint": {"endpoint": "PROXY"}}, "StorageDenied", "If-None-Match"),
}
GOOD = "undisturbed"


@pytest.fixture
def proxy(cluster_home: Path) -> Iterator[FaultProxy]:
    """A store that takes no notice of conditions."""
    proxy = FaultProxy(ObjectStore.of_cluster(Home(cluster_home)), HOST_ADDRESS)
    proxy.ignore = lambda request: True
    yield proxy
    proxy.close()


def job(name: str, changes: dict[str, dict[str, Any]], proxy: FaultProxy) -> dict[str, Any]:
    document = product.job(name, steps=3)
    for section, values in changes.items():
        document["spec"][section] |= {key: proxy.endpoint if value == "PROXY" else value for key, value in values.items()}
    document["spec"]["training"] |= {"warmupSteps": 0}
    document["spec"]["podOverrides"]["resources"]["requests"] = {"cpu": "100m", "memory": "512Mi"}
    return document


def seconds_to_verdict(attempt: dict[str, Any]) -> float:
    return (datetime.fromisoformat(attempt["endedAt"]) - datetime.fromisoformat(attempt["runningAt"])).total_seconds()


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_bad_input_fails_within_a_minute_with_thing_and_remedy_and_disturbs_nobody(
    cluster_home: Path, product_installed: Kube, proxy: FaultProxy
) -> None:
    kube, jobs = product_installed, Jobs(product.NAMESPACE, str(product_installed.kubeconfig))
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    product.storage(Home(cluster_home)).put_object(Bucket=product.BUCKET, Key="data/broken.jsonl", Body=f"{good}\nno JSON\n".encode())
    keys = {"accessKeyId": "nobody", "secretAccessKey": "wrong"}
    metadata = {"name": "wrong-keys", "namespace": product.NAMESPACE}
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})
    names = [*BAD, GOOD]
    for name in names:
        remove(kube, name)
    for name in names:
        kube.apply(job(name, BAD[name][0] if name in BAD else {}, proxy))

    def all_over() -> dict[str, dict[str, Any]] | None:
        found = {name: jobs.get(name) for name in names}
        return found if all(view.phase(document) in view.TERMINAL_PHASES for document in found.values()) else None

    ended = until(all_over, "every job comes to its end", 300)
    for name in names:
        remove(kube, name)
    assert view.phase(ended[GOOD]) == "Succeeded", view.failure(ended[GOOD])
    for name, (_, reason, thing) in BAD.items():
        status = ended[name]["status"]
        complete = next(c for c in status["conditions"] if c["type"] == "Complete")
        assert (status["phase"], complete["reason"]) == ("Failed", reason), name
        assert thing in complete["message"], name
        assert status["attempt"] == 1, f"{name} burnt retries"
        assert seconds_to_verdict(status["attempts"][-1]) <= 60, name
