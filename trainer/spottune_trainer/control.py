"""The trainer's HTTP server: progress, metrics, health, and the request for an early commit."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import ValidationError

from spottune_contract.progress import CheckpointRequest
from spottune_trainer.preemption import REFILL_SECONDS, Answer

MAX_BODY_BYTES = 4096
SOCKET_SECONDS = 5.0
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


class ControlServer(ThreadingHTTPServer):
    """Daemon threads, at most `MAX_CONNECTIONS` at once; more are closed unanswered."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, routes: Routes) -> None:
        self.routes = routes
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
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
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is not our trouble."""


class _Handler(BaseHTTPRequestHandler):
    server: ControlServer
    timeout = SOCKET_SECONDS
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
