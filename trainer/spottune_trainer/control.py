"""The trainer's HTTP server: progress, metrics, health, and the request for an early commit."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import ValidationError

from spottune_contract.progress import CheckpointRequest
from spottune_trainer.preemption import REFILL_SECONDS, Answer

MAX_BODY_BYTES = 4096
CONNECTION_SECONDS = 5.0
"""From accept to answer: nobody who asks honestly needs a tenth of it."""
MAX_CONNECTIONS = 16


class Routes:
    """What the server serves; every callable is thread-safe and quick."""

    def __init__(
        self,
        *,
        progress: Callable[[], str],
        metrics: Callable[[], bytes],
        hung: Callable[[], str],
        notify: Callable[[CheckpointRequest], Answer],
    ) -> None:
        self.progress, self.metrics, self.hung, self.notify = progress, metrics, hung, notify


@dataclass(frozen=True)
class _Connection:
    socket: socket.socket
    peer: str
    """Address of the caller, without its port."""
    deadline: float
    """Monotonic seconds at which it is ended, however it is used."""


class ControlServer(ThreadingHTTPServer):
    """One request per connection, in `connection_seconds` at most and on a daemon thread.

    With all `MAX_CONNECTIONS` in use the newcomer is served, and the caller that holds the most loses its oldest: slow or silent
    connections starve nobody, and a crowd of one caller costs the kubelet's probe nothing.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, routes: Routes, *, connection_seconds: float = CONNECTION_SECONDS) -> None:
        self.routes = routes
        self._seconds = connection_seconds
        self._lock = threading.Lock()
        self._open: list[_Connection] = []
        """Oldest first."""
        # A connection that was ended still has its thread for a moment.
        self._slots = threading.BoundedSemaphore(4 * MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.1,), name="control", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        newcomer = _Connection(request, client_address[0], time.monotonic() + self._seconds)
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                self._end(_most_expendable(self._open))
            self._open.append(newcomer)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open = [connection for connection in self._open if connection.socket is not request]
            self._slots.release()

    def service_actions(self) -> None:
        """Called between requests, ten times a second: a time-out per read would let a caller drip for ever."""
        now = time.monotonic()
        with self._lock:
            for connection in [connection for connection in self._open if connection.deadline <= now]:
                self._end(connection)

    def _end(self, connection: _Connection) -> None:
        """Its thread wakes up from whatever it waits for and closes the socket."""
        self._open.remove(connection)
        with contextlib.suppress(OSError):  # closed by its thread in this moment
            connection.socket.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is not our trouble."""


def _most_expendable(connections: list[_Connection]) -> _Connection:
    """The oldest of the caller that holds the most."""
    held = Counter(connection.peer for connection in connections)
    return max(connections, key=lambda connection: held[connection.peer])


class _Handler(BaseHTTPRequestHandler):
    server: ControlServer
    timeout = CONNECTION_SECONDS
    server_version, sys_version = "spottune-trainer", ""

    def do_GET(self) -> None:
        routes = self.server.routes
        path = self.path.partition("?")[0]
        if path == "/progress":
            self._answer(200, routes.progress().encode(), "application/json")
        elif path == "/metrics":
            self._answer(200, routes.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/healthz":
            trouble = routes.hung()
            self._answer(503 if trouble else 200, (trouble or "ok").encode(), "text/plain; charset=utf-8")
        else:
            self._say(404, error="not found: GET /progress, /metrics, /healthz or POST /checkpoint")

    def do_POST(self) -> None:
        if self.path.partition("?")[0] != "/checkpoint":
            self._say(404, error="not found: POST /checkpoint")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self._say(411, error="Content-Length is missing")
            return
        if int(length) > MAX_BODY_BYTES:
            self._say(413, error=f"the body may have {MAX_BODY_BYTES} bytes")
            return
        body = self.rfile.read(int(length))
        try:
            request = CheckpointRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False, include_input=False))
            self._say(400, error=wrong)
            return
        answer = self.server.routes.notify(request)
        if answer is Answer.TOO_MANY:
            self._say(429, error="too many requests", retry_after=REFILL_SECONDS)
        else:
            self._say(202, accepted=True, duplicate=answer is Answer.DUPLICATE)

    def _say(self, status: int, **body: object) -> None:
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", str(int(REFILL_SECONDS)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class names it so
        """Requests are not logged: the operator polls, and it would fill the tail."""
