"""The instance metadata service of a node: IMDSv2 as EC2 serves it, its notices read from a file that tests and the market write.

Tokens are required (`PUT /latest/api/token`), live only in memory, and are refused after their time. Notices are 404 while there are none.
The server runs inside the node; whoever gives a notice writes `imds.json` in the node's directory in one move.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from localcloud.home import Home, write_private
from localcloud.noderecord import NodeError

STATE_FILE = "imds.json"
MAX_TOKEN_SECONDS = 21600
"""Six hours, EC2's limit."""
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"

Action = Literal["terminate", "stop", "hibernate"]


def set_instance_action(home: Home, node: str, action: Action, time: datetime) -> None:
    """Give the node a spot interruption notice: `action` happens at `time` (with a time zone)."""
    _change(home, node, {"instance_action": {"action": action, "time": _iso(time)}})


def set_rebalance(home: Home, node: str, notice_time: datetime) -> None:
    """Tell the node that its risk of interruption is high, as of `notice_time`."""
    _change(home, node, {"rebalance": {"noticeTime": _iso(notice_time)}})


def set_maintenance(home: Home, node: str, not_before: datetime, code: str = "system-reboot") -> None:
    """Schedule a maintenance event for the node."""
    event = {
        "NotBefore": _gmt(not_before),
        "Code": code,
        "Description": "scheduled maintenance",
        "EventId": f"instance-event-{secrets.token_hex(8)}",
        "State": "active",
    }
    _change(home, node, {"maintenance": [event]})


def set_target_lifecycle_state(home: Home, node: str, state: str) -> None:
    """What the Auto Scaling group is about to do with the node: `InService` or `Terminated`."""
    _change(home, node, {"target_lifecycle_state": state})


def clear(home: Home, node: str) -> None:
    """Take every notice back."""
    write_private(_directory(home, node) / STATE_FILE, "{}")


def documents(identity: Mapping[str, str], state: Mapping[str, object]) -> dict[str, str]:
    """Everything IMDS has to say, by path below `/latest/`; what is not here is a 404.

    Args:
        identity: instance_id, instance_type, zone, capacity_type (spot or on-demand), address, hostname.
        state: what `imds.json` holds.
    """
    zone = identity["zone"]
    region = zone.rstrip("abcdefghijklmnopqrstuvwxyz")
    spot = identity["capacity_type"] == "spot"
    found = {
        "meta-data/instance-id": identity["instance_id"],
        "meta-data/instance-type": identity["instance_type"],
        "meta-data/instance-life-cycle": identity["capacity_type"],
        "meta-data/placement/availability-zone": zone,
        "meta-data/placement/region": region,
        "meta-data/local-ipv4": identity["address"],
        "meta-data/local-hostname": identity["hostname"],
        "meta-data/hostname": identity["hostname"],
        "meta-data/events/maintenance/scheduled": json.dumps(state.get("maintenance", [])),
        "meta-data/autoscaling/target-lifecycle-state": str(state.get("target_lifecycle_state", "InService")),
        "dynamic/instance-identity/document": json.dumps(
            {
                "accountId": "123456789012",
                "architecture": "x86_64",
                "availabilityZone": zone,
                "instanceId": identity["instance_id"],
                "instanceType": identity["instance_type"],
                "privateIp": identity["address"],
                "region": region,
                "version": "2017-09-30",
            },
            indent=2,
        ),
    }
    action = state.get("instance_action")
    if spot and isinstance(action, dict):
        found["meta-data/spot/instance-action"] = json.dumps(action)
        if action["action"] == "terminate":
            found["meta-data/spot/termination-time"] = action["time"]
    if "rebalance" in state:
        found["meta-data/events/recommendations/rebalance"] = json.dumps(state["rebalance"])
    return found


def answer(path: str, found: Mapping[str, str]) -> str | None:
    """The body for a path such as `/latest/meta-data/instance-id`; a listing for a folder; None if there is nothing (404)."""
    key = path.partition("?")[0].removeprefix("/latest/").strip("/")
    if key in found:
        return found[key]
    prefix = f"{key}/" if key else ""
    below = {name[len(prefix) :] for name in found if name.startswith(prefix)}
    return "\n".join(sorted({rest.partition("/")[0] + ("/" if "/" in rest else "") for rest in below})) or None


class Tokens:
    """Session tokens with their time to live; `now` gives seconds on a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._expiry: dict[str, float] = {}

    def issue(self, seconds: int) -> str:
        """A new token that is good for `seconds` seconds; raises `ValueError` outside 1 to 21600."""
        if not 1 <= seconds <= MAX_TOKEN_SECONDS:
            raise ValueError(f"{_TTL_HEADER} must be 1 to {MAX_TOKEN_SECONDS}, not {seconds}")
        now = self._now()
        self._expiry = {token: end for token, end in self._expiry.items() if end > now}
        token = secrets.token_urlsafe(40) + "=="
        self._expiry[token] = now + seconds
        return token

    def left(self, token: str) -> int | None:
        """Seconds that the token is still good for; None if it is not."""
        seconds = self._expiry.get(token, 0.0) - self._now()
        return int(seconds) if seconds > 0 else None


def server(
    address: tuple[str, int], identity: Mapping[str, str], state_file: Path, now: Callable[[], float] = time.monotonic
) -> ThreadingHTTPServer:
    """An IMDS for one node, bound but not yet serving: call `serve_forever()`.

    Args:
        address: host and port; 169.254.169.254:80 in a node, a free loopback port in tests.
        identity: see `documents`.
        state_file: read at every request; missing or empty means no notices.
    """
    tokens = Tokens(now)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "EC2ws", ""
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_PUT(self) -> None:
            if self.path != "/latest/api/token":
                return self._reply(404, "")
            if self.headers.get("X-Forwarded-For"):  # EC2 gives no tokens through a proxy
                return self._reply(403, "")
            try:
                seconds = int(self.headers.get(_TTL_HEADER, ""))
                self._reply(200, tokens.issue(seconds), seconds)
            except ValueError:
                self._reply(400, "")

        def do_GET(self) -> None:
            left = tokens.left(self.headers.get(_TOKEN_HEADER, ""))
            if left is None:
                return self._reply(401, "")
            state = json.loads(state_file.read_text() or "{}") if state_file.exists() else {}
            body = answer(self.path, documents(identity, state))
            self._reply(404, "", left) if body is None else self._reply(200, body, left)

        def _reply(self, status: int, body: str, seconds: int | None = None) -> None:
            raw = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(raw)))
            if seconds is not None:
                self.send_header(_TTL_HEADER, str(seconds))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            """Nothing: agents ask every two seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    return Server(address, Handler)


def _change(home: Home, node: str, change: Mapping[str, object]) -> None:
    path = _directory(home, node) / STATE_FILE
    state = json.loads(path.read_text() or "{}") if path.exists() else {}
    write_private(path, json.dumps({**state, **change}))


def _directory(home: Home, node: str) -> Path:
    directory = home.root / "nodes" / node
    if not directory.is_dir():
        known = sorted(path.name for path in (home.root / "nodes").glob("*"))
        raise NodeError(f"no node {node!r} here; there are: {', '.join(known) or 'none'} (`.venv/bin/python -m localcloud node list`)")
    return directory


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _gmt(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%d %b %Y %H:%M:%S GMT")
