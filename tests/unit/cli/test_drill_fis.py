"""FIS is asked for one action on the one instance of the job's node, and nothing of it stays; what it cannot do is refused before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import boto3
import pytest
from moto.server import ThreadedMotoServer

from spottune_cli.drill import fis
from spottune_cli.drill.acts import Scene
from spottune_cli.drill.card import Before, Kind
from spottune_cli.drill.cluster import Cluster
from spottune_cli.errors import Exit, Refusal

ROLE = "arn:aws:iam::123456789012:role/fis"
ARN = "arn:aws:ec2:us-east-1:123456789012:instance/i-0b662ef9931388ba0"
PROVIDER = "aws:///us-east-1b/i-0b662ef9931388ba0"
BEFORE = Before("job", "demo", "uid", 1, "job-e1-0", "pod-uid", "node", "g5.xlarge/us-east-1b/spot", step=4)


@pytest.fixture
def client() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    yield boto3.client("fis", region_name="us-east-1", endpoint_url=f"http://{host}:{port}", **keys)  # type: ignore[call-overload]
    server.stop()


def scene() -> Scene:
    return Scene(cast(Cluster, None), BEFORE, {}, lambda line: None, time.monotonic() + 30)


@pytest.mark.parametrize(("kind", "minutes"), [(Kind.NOTICE, "PT2M"), (Kind.REBALANCE, "PT5M")])
def test_the_experiment_interrupts_the_one_instance_and_its_template_goes(client: Any, kind: Kind, minutes: str) -> None:
    running = fis.start(scene(), client, fis.template(kind, ARN, ROLE, BEFORE))
    experiment = client.get_experiment(id=running)["experiment"]
    assert [target["resourceArns"] for target in experiment["targets"].values()] == [[ARN]]
    (action,) = experiment["actions"].values()
    assert (action["actionId"], action["parameters"]) == (fis.ACTION, {"durationBeforeInterruption": minutes})
    assert action["targets"] == {"SpotInstances": "machine"}
    assert experiment["roleArn"] == ROLE
    assert client.list_experiment_templates()["experimentTemplates"] == []


def test_aws_that_refuses_is_quoted_with_the_rights_that_are_needed(client: Any) -> None:
    with pytest.raises(Refusal, match=r"AWS FIS refuses \(ResourceNotFound.*iam:PassRole") as refusal:
        fis.start(scene(), _Forgetful(client), fis.template(Kind.NOTICE, ARN, ROLE, BEFORE))
    assert refusal.value.code is Exit.UNREACHABLE


class _Forgetful:
    """The template is gone before it is started, as after a rival's clean-up."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def create_experiment_template(self, **wanted: Any) -> Any:
        made = self._client.create_experiment_template(**wanted)
        self._client.delete_experiment_template(id=made["experimentTemplate"]["id"])
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.mark.parametrize(
    ("provider", "role", "pool", "what"),
    [
        (PROVIDER, "fis", BEFORE.pool, "is no role"),
        ("kind://docker/x/y", ROLE, BEFORE.pool, "no EC2 instance"),
        (PROVIDER, ROLE, "g5.xlarge/us-east-1b/on-demand", "no spot instance"),
    ],
)
def test_what_fis_cannot_interrupt_is_refused(provider: str, role: str, pool: str, what: str) -> None:
    with pytest.raises(Refusal, match=what) as refusal:
        fis.instance_arn(provider, role, pool)
    assert refusal.value.code is Exit.USAGE


def test_the_instance_of_a_node() -> None:
    assert fis.instance_arn(PROVIDER, ROLE, BEFORE.pool) == (ARN, "us-east-1")
