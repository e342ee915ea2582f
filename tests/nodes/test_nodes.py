"""Local spot nodes: real kubelets and containers that can be killed, frozen and cut off."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localcloud import imds, net, node, oci
from localcloud.process import Process
from tests.fixtures.nodes import LocalNodes

pytestmark = pytest.mark.nodes

SERVER = """
import http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"alive")
    def log_message(self, *a): pass
socketserver.TCPServer(("", 8080), Handler).serve_forever()
"""


def get(address: str, timeout: float = 2.0) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{address}:8080/", timeout=timeout) as response:
            return str(response.read().decode())
    except OSError:
        return None


def commands(of: node.Node) -> dict[Process, bytes]:
    """The command line of every process of the node."""
    found = {}
    for pid in of.cgroup.processes():
        try:
            process, command = Process.of(pid), Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # ended between the look and the reading
        if process is not None:
            found[process] = command
    return found


def test_three_nodes_of_three_pools_are_ready_within_seconds(local_nodes: LocalNodes) -> None:
    begin = time.monotonic()
    pools = ("g5.xlarge/us-east-1a/spot", "g4dn.xlarge/us-east-1b/spot", "m5.xlarge/us-east-1c/on-demand")
    nodes = [node.add(local_nodes.home, pool) for pool in pools]
    for each in nodes:
        node.wait_ready(local_nodes.home, each.name)
    assert time.monotonic() - begin < 20
    for each in nodes:
        found = local_nodes.core.read_node(each.name)
        labels = found.metadata.labels
        kinds = ("node.kubernetes.io/instance-type", "topology.kubernetes.io/zone", "karpenter.sh/capacity-type")
        assert "/".join(labels[kind] for kind in kinds) == each.pool
        assert found.spec.provider_id == f"aws:///{labels['topology.kubernetes.io/zone']}/{each.instance_id}"


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_node_whose_adder_died_while_plugging_it_in_is_booted_anew(
    local_nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    class Died(BaseException):
        pass

    commands = iter([net.command] * done)

    def command(*words: str, given: str | None = None) -> str:
        try:
            return next(commands)(*words, given=given)
        except StopIteration:
            raise Died from None

    name = f"plugged-{done}"
    with monkeypatch.context() as patch:
        patch.setattr(net, "command", command)
        with pytest.raises(Died):
            node.add(local_nodes.home, name=name)
    node.add(local_nodes.home, name=name, wait=True)


def test_a_restricted_pod_imports_torch_as_an_ordinary_user(local_nodes: LocalNodes) -> None:
    code = "import os, torch; print(os.getuid(), float(torch.ones(3).sum())); open('/tmp/x', 'w'); open('/x', 'w')"
    local_nodes.pod("torch", local_nodes.add(), code)
    output = local_nodes.output("torch")
    assert "65532 3.0" in output
    assert "Read-only file system: '/x'" in output


def test_taints_and_labels_are_there_from_the_first_moment(local_nodes: LocalNodes) -> None:
    added = local_nodes.add(labels={"example.com/a": "b"}, taints=["karpenter.sh/unregistered:NoExecute", "example.com/t=v:NoSchedule"])
    found = local_nodes.core.read_node(added.name)
    assert found.metadata.labels["example.com/a"] == "b"
    taints = {(taint.key, taint.value, taint.effect) for taint in found.spec.taints}
    assert {("karpenter.sh/unregistered", None, "NoExecute"), ("example.com/t", "v", "NoSchedule")} <= taints


def test_power_off_kills_everything_at_once_and_the_node_becomes_unknown(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    address = local_nodes.pod("server", added, SERVER)
    local_nodes.until(lambda: get(address), "the pod serves")
    processes = commands(added)
    assert any(b"TCPServer" in command for command in processes.values())
    node.poweroff(local_nodes.home, added.name)
    assert not [process for process in processes if process.alive()]
    assert get(address) is None
    assert added.state == "Off"
    node.poweroff(local_nodes.home, added.name)
    local_nodes.until(lambda: local_nodes.ready(added.name) == "Unknown", "the control plane misses the node", 45)


def test_a_node_that_is_off_boots_anew_with_another_instance(local_nodes: LocalNodes) -> None:
    first = local_nodes.add(name="phoenix")
    node.poweroff(local_nodes.home, "phoenix")
    second = local_nodes.add(name="phoenix")
    assert second.instance_id != first.instance_id
    assert local_nodes.core.read_node("phoenix").spec.provider_id == second.provider_id
    assert local_nodes.add(name="phoenix") == second


def test_a_paused_node_stands_still_and_runs_on_when_resumed(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    address = local_nodes.pod("server", added, SERVER)
    local_nodes.until(lambda: get(address), "the pod serves")
    node.pause(local_nodes.home, added.name)
    assert added.state == "Paused"
    with socket.create_connection((address, 8080), timeout=2) as waiting:  # the kernel accepts, nobody answers
        waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(100)
        node.resume(local_nodes.home, added.name)
        waiting.settimeout(10)
        assert b"200" in waiting.recv(100)
    assert added.state == "Running"


def test_a_paused_node_can_be_powered_off(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    node.pause(local_nodes.home, added.name)
    node.poweroff(local_nodes.home, added.name)
    assert added.cgroup.processes() == set()


def test_a_cut_node_is_unreachable_until_it_is_healed_and_its_pods_live_on(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    address = local_nodes.pod("server", added, SERVER)
    local_nodes.until(lambda: get(address), "the pod serves")
    server = next(process for process, command in commands(added).items() if b"TCPServer" in command)
    node.cut(local_nodes.home, added.name)
    assert added.state == "Cut"
    assert get(address, 0.5) is None
    assert server.alive()
    node.heal(local_nodes.home, added.name)
    assert local_nodes.until(lambda: get(address), "the pod serves again", 10) == "alive"


def test_pods_reach_pods_of_other_nodes_and_the_api_but_nothing_outside(local_nodes: LocalNodes) -> None:
    first, second = local_nodes.add(), local_nodes.add()
    address = local_nodes.pod("server", first, SERVER)
    local_nodes.until(lambda: get(address), "the pod serves")
    code = f"""
import socket, urllib.request
print(urllib.request.urlopen("http://{address}:8080/", timeout=5).read())
socket.create_connection(("198.19.128.1", 443), timeout=5).close()
try:
    socket.create_connection(("203.0.113.1", 80), timeout=5)
except TimeoutError:
    print("hangs")
except OSError as error:
    print("refused")
"""
    local_nodes.pod("client", second, code)
    assert local_nodes.output("client").split() == ["b'alive'", "refused"]


ASK_IMDS = """
import json, socket, urllib.request, urllib.error
socket.setdefaulttimeout(2)
base = "http://169.254.169.254/latest/"
def ask(path, **headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(base + path, headers=headers)).read().decode()
    except urllib.error.HTTPError as error:
        return error.code
try:
    request = urllib.request.Request(base + "api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    token = {"X-aws-ec2-metadata-token": urllib.request.urlopen(request).read().decode()}
    print(json.dumps([ask("meta-data/instance-id"), ask("meta-data/instance-id", **token), ask("meta-data/spot/instance-action", **token)]))
except OSError as error:
    print(json.dumps("unreachable"))
"""


def test_imds_answers_pods_of_the_host_network_only(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    local_nodes.pod("before", added, ASK_IMDS, host_network=True)
    assert json.loads(local_nodes.output("before", host_network=True)) == [401, added.instance_id, 404]
    imds.set_instance_action(local_nodes.home, added.name, "terminate", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    local_nodes.pod("after", added, ASK_IMDS, host_network=True)
    action = json.loads(local_nodes.output("after", host_network=True))[2]
    assert json.loads(action) == {"action": "terminate", "time": "2026-01-02T03:04:05Z"}
    local_nodes.pod("ordinary", added, ASK_IMDS)
    assert json.loads(local_nodes.output("ordinary")) == "unreachable"


def test_a_kubelet_that_dies_is_started_again(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()

    def kubelets() -> set[Process]:
        return {process for process, command in commands(added).items() if command.split(b"\0")[0].endswith(b"/kubelet")}

    (first,) = kubelets()
    first.signal(signal.SIGKILL)
    local_nodes.until(lambda: kubelets() - {first}, "a new kubelet", 10)


def test_deleting_a_static_node_deletes_its_node_object(local_nodes: LocalNodes) -> None:
    added = local_nodes.add()
    node.delete(local_nodes.home, added.name)
    node.delete(local_nodes.home, added.name)
    assert added.name not in {each.metadata.name for each in local_nodes.core.list_node().items}
    with pytest.raises(node.NodeError, match="no node"):
        node.poweroff(local_nodes.home, added.name)


def test_an_imported_image_runs_as_it_is_on_a_node_that_mounts_nothing_of_the_host(local_nodes: LocalNodes, tmp_path: Path) -> None:
    added = local_nodes.add(real_images=True)
    archive = tmp_path / "own.tar"
    layout = oci.Layout()
    content = oci.layer({}, executables={"bin/own": Path("/usr/bin/catatonit").read_bytes()})  # static: it needs no library of the host
    layout.add("example.com/own:v1", content, {"Entrypoint": ["/bin/own"], "User": "65532:65532"})
    layout.write(archive)
    node.import_image(local_nodes.home, added.name, archive)
    local_nodes.run("own", added, "example.com/own:v1", ["/bin/own", "-V"])
    assert "_catatonit" in local_nodes.output("own")
