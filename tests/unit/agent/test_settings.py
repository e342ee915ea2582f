from __future__ import annotations

import pytest

from spottune_agent.settings import BadSettings, Settings

GOOD = {"SPOTTUNE_NODE": "node-1", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_only_the_node_must_be_given() -> None:
    settings = Settings.from_environ(GOOD)
    assert (settings.node, settings.api_url, settings.imds_url) == ("node-1", "https://10.0.0.1:443", "http://169.254.169.254")


def test_an_ipv6_service_address_is_bracketed() -> None:
    assert Settings.from_environ({**GOOD, "KUBERNETES_SERVICE_HOST": "fd00::1"}).api_url == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    "change",
    [
        {"SPOTTUNE_NODE": ""},
        {"SPOTTUNE_POLL_SECONDS": "often"},
        {"SPOTTUNE_POLL_SECONDS": "0"},
        {"SPOTTUNE_MARGIN_SECONDS": "nan"},
        {"SPOTTUNE_IMDS_URL": "169.254.169.254"},
        {"SPOTTUNE_HEALTH_PORT": "70000"},
        {"KUBERNETES_SERVICE_HOST": ""},
    ],
)
def test_a_wrong_setting_is_refused_by_name(change: dict[str, str]) -> None:
    with pytest.raises(BadSettings, match=r"SPOTTUNE_(NODE|API_URL)" if "KUBERNETES_SERVICE_HOST" in change else next(iter(change))):
        Settings.from_environ({**GOOD, **change})
