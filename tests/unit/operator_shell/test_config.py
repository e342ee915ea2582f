"""Settings come from flags, then the environment, then defaults; a wrong one is refused with its name."""

from __future__ import annotations

import pytest

from spottune_operator.config import parse
from spottune_operator.notices.sqs import QueueSettings

REQUIRED = {
    "SPOTTUNE_OPERATOR_CLUSTER_NAME": "prod",
    "SPOTTUNE_OPERATOR_TRAINER_IMAGE": "trainer:1",
    "SPOTTUNE_OPERATOR_NAMESPACE": "spottune-system",
}


def test_the_environment_of_the_chart_is_enough() -> None:
    config = parse([], REQUIRED | {"SPOTTUNE_OPERATOR_TRAINER_RESOURCES": '{"requests": {"cpu": 1}}'})
    assert (config.trainers.cluster, config.trainers.image, config.trainers.resources) == ("prod", "trainer:1", {"requests": {"cpu": 1}})
    assert config.queue is None
    assert config.trainers.do_not_disrupt is True


def test_flags_win_over_the_environment() -> None:
    config = parse(["--cluster-name", "other", "--sqs-queue-url", "http://q", "--do-not-disrupt", "false"], REQUIRED)
    assert config.trainers.cluster == "other"
    assert config.queue == QueueSettings("http://q", "us-east-1", "")
    assert config.trainers.do_not_disrupt is False


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--cluster-name", ""], "--cluster-name"),
        (["--trainer-resources", "[]"], "--trainer-resources"),
        (["--trainer-resources", "{"], "Expecting"),
        (["--log-level", "loud"], "--log-level"),
        (["--port", "http"], "http"),
        (["--namespace", ""], "--namespace"),
        (["--lease-seconds", "0.5"], "--lease-seconds"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments, REQUIRED)
    assert named in capsys.readouterr().err
