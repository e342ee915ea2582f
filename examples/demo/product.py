"""Install the product and place what the example job refers to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import yaml

from examples.demo.kube import Kube
from examples.prepare_data import prepare_data
from examples.prepare_model import prepare_model
from examples.upload import place
from localcloud import seed
from localcloud.home import Home
from localcloud.objectstore import REGION, ObjectStore
from spottune_contract.labels import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "charts" / "spottune"
JOB_FILE = ROOT / "examples" / "python-help.yaml"
NAMESPACE, SYSTEM_NAMESPACE = "demo", "spottune-system"
CLUSTER_NAME = "local"
BUCKET = "spottune"
SECRET = "spottune-storage"


def storage(home: Home) -> S3Client:
    """An S3 client for the local store."""
    store = ObjectStore.of_cluster(home)
    return boto3.client(
        "s3", endpoint_url=store.endpoint, region_name=REGION, aws_access_key_id=store.access_key, aws_secret_access_key=store.secret_key
    )


def install(home: Home, kube: Kube) -> None:
    """NodePools, the chart with its CRD, and the namespace of the jobs; returns when the operator is ready."""
    kube.apply(*sorted((ROOT / "examples" / "karpenter").glob("*.yaml")))
    cloud = seed.load(home)
    if cloud is None:
        raise RuntimeError("the local cloud has no queues: run `.venv/bin/python -m localcloud up`")
    settings = {
        "clusterName": CLUSTER_NAME,
        "sqs.queueURL": cloud.queue_url,
        "sqs.endpoint": cloud.endpoint,
        "sqs.region": cloud.region,
    }
    flags = [part for name, value in settings.items() for part in ("--set-string", f"{name}={value}")]
    kube.apply(*sorted((CHART / "crds").glob("*.yaml")))
    kube.helm(
        "upgrade",
        "--install",
        "spottune",
        str(CHART),
        "--namespace",
        SYSTEM_NAMESPACE,
        "--create-namespace",
        "--values",
        str(values_file()),
        *flags,
        "--wait",
        "--timeout",
        "120s",
    )
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )


def values_file() -> Path:
    """The chart's values for the local cluster."""
    return ROOT / "examples" / "demo" / "values.yaml"


def place_inputs(home: Home, kube: Kube) -> None:
    """Model and data into the bucket, the credentials into the namespace."""
    store = ObjectStore.of_cluster(home)
    model, (train, evaluation) = prepare_model(), prepare_data()
    files = {f"models/smollm2-135m-instruct/{path.name}": path for path in sorted(model.iterdir()) if path.is_file()}
    files |= {"data/python-help/train.jsonl": train, "data/python-help/eval.jsonl": evaluation}
    place(store.endpoint, store.access_key, store.secret_key, BUCKET, files)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"accessKeyId": store.access_key, "secretAccessKey": store.secret_key},
    }
    kube.apply(secret)


def job(name: str, steps: int | None = None) -> dict[str, Any]:
    """The example job under another name with its own output, and shorter if `steps` is given."""
    document: dict[str, Any] = yaml.safe_load(JOB_FILE.read_text())
    assert document["kind"] == KIND and document["apiVersion"] == f"{GROUP}/{API_VERSION}"  # noqa: PT018
    if document["metadata"]["name"] != name:
        document["metadata"]["name"] = name
        document["spec"]["output"]["destination"] = f"s3://{BUCKET}/adapters/{name}"
    if steps is not None:
        document["spec"]["training"]["maxSteps"] = steps
    return document
