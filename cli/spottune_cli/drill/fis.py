"""AWS itself interrupts the machine of a job: an experiment of its Fault Injection Service on that one instance."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from spottune_cli.drill.card import Before, Kind, Seen
from spottune_cli.drill.price import region_of
from spottune_cli.errors import Exit, Refusal

if TYPE_CHECKING:
    from spottune_cli.drill.acts import Scene

ACTION = "aws:ec2:send-spot-instance-interruptions"
BEFORE_INTERRUPTION = {Kind.NOTICE: "PT2M", Kind.REBALANCE: "PT5M"}
"""From the experiment's start to the end of the instance. Two minutes is the notice; with more a recommendation comes first."""
_ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/.+")
_UNDER_WAY = frozenset({"running", "completed"})
_FAILED = frozenset({"failed", "stopped", "cancelled"})


def instance_arn(provider_id: str, role: str, pool: str) -> tuple[str, str]:
    """ARN and region of a node's instance. Raises `Refusal` for what FIS cannot interrupt."""
    where = re.fullmatch(r"aws:///(?P<zone>[^/]+)/(?P<instance>i-[0-9a-f]+)", provider_id)
    who = _ROLE.fullmatch(role)
    if who is None:
        raise Refusal(Exit.USAGE, f"--fis-role-arn: {role!r} is no role: write arn:aws:iam::ACCOUNT:role/NAME")
    if where is None:
        raise Refusal(Exit.USAGE, f"the job's node is no EC2 instance (providerID {provider_id!r}): leave --fis-role-arn out")
    if not pool.endswith("/spot"):
        raise Refusal(Exit.USAGE, f"the job's machine is no spot instance ({pool}): FIS interrupts only those; leave --fis-role-arn out")
    region = region_of(where["zone"])
    return f"arn:{who['partition']}:ec2:{region}:{who['account']}:instance/{where['instance']}", region


def template(kind: Kind, arn: str, role: str, before: Before) -> dict[str, Any]:
    """The experiment: this one instance, this one action."""
    name = f"spottune drill {kind} of {before.namespace}/{before.job}"
    return {
        "clientToken": str(uuid.uuid4()),
        "description": name[:512],
        "roleArn": role,
        "stopConditions": [{"source": "none"}],
        "targets": {"machine": {"resourceType": "aws:ec2:spot-instance", "resourceArns": [arn], "selectionMode": "ALL"}},
        "actions": {
            "interrupt": {
                "actionId": ACTION,
                "parameters": {"durationBeforeInterruption": BEFORE_INTERRUPTION[kind]},
                "targets": {"SpotInstances": "machine"},
            }
        },
        "tags": {"spottune.dev/drill": before.job},
    }


def act(scene: Scene, kind: Kind, role: str) -> Seen:
    """Start the experiment and see it begin; its template is deleted whatever happens. Raises `Refusal` if AWS does not want to."""
    import boto3

    if kind not in BEFORE_INTERRUPTION:
        raise Refusal(Exit.USAGE, f"--fis-role-arn is for the kinds notice and rebalance: FIS knows no {kind}")
    before, cluster = scene.before, scene.cluster
    node = cluster.node(before.node)
    arn, region = instance_arn(str((node.get("spec") or {}).get("providerID", "")), role, before.pool)
    told = cluster.progress(before.pod)
    began = cluster.now()
    try:
        start(scene, boto3.client("fis", region_name=region), template(kind, arn, role, before))
    except BotoCoreError as error:
        raise Refusal(Exit.UNREACHABLE, f"AWS FIS cannot be asked ({error}): log in to AWS (`aws sso login`, AWS_PROFILE …)") from None
    minutes = BEFORE_INTERRUPTION[kind].strip("PTM")
    scene.left = (
        f"AWS takes {arn.rpartition('/')[2]} away {minutes} minutes after the experiment began; the operator goes on with the job by itself"
    )
    if kind is Kind.NOTICE:
        return Seen(f"AWS FIS gave the instance of {before.node} its two minutes' notice", began)
    from spottune_cli.drill.acts import committed_and_stayed

    done = f"AWS FIS recommended to leave the instance of {before.node}, which it takes away {minutes} minutes after that"
    return committed_and_stayed(scene, began, told.notice_at if told is not None else 0.0, done)


def start(scene: Scene, client: Any, wanted: Mapping[str, Any]) -> str:
    """Run the experiment `wanted` until it is under way; returns its id."""
    try:
        made = client.create_experiment_template(**wanted)["experimentTemplate"]["id"]
        try:
            scene.left = f"experiment template {made} may be left in AWS FIS"
            running = client.start_experiment(clientToken=str(uuid.uuid4()), experimentTemplateId=made)["experiment"]["id"]
            scene.left = f"experiment {running} of AWS FIS goes on; `aws fis stop-experiment --id {running}` ends it"
            scene.until(lambda: _under_way(client, running), f"experiment {running} of AWS FIS to begin")
        finally:
            client.delete_experiment_template(id=made)
    except ClientError as error:
        said = error.response["Error"]
        raise Refusal(
            Exit.UNREACHABLE,
            f"AWS FIS refuses ({said['Code']}: {said.get('Message', '')}): you need fis:CreateExperimentTemplate, StartExperiment, GetExperiment, "
            "DeleteExperimentTemplate, TagResource and iam:PassRole on the role, the role ec2:SendSpotInstanceInterruptions",
        ) from None
    return str(running)


def _under_way(client: Any, experiment: str) -> bool:
    state = client.get_experiment(id=experiment)["experiment"]["state"]
    if state["status"] in _FAILED:
        raise Refusal(Exit.UNREACHABLE, f"experiment {experiment} of AWS FIS {state['status']}: {state.get('reason', 'no reason given')}")
    return state["status"] in _UNDER_WAY
