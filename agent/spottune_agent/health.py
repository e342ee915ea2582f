"""`/healthz` on the node's loopback address, for the kubelet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Health = Callable[[], tuple[bool, dict[str, object]]]


def serve(port: int, health: Health) -> ThreadingHTTPServer:
    """Serve in a background thread on 127.0.0.1 (the agent shares the host's network: nobody else has to see it)."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            ok, details = health()
            body = json.dumps(details).encode()
            self.send_response(404 if self.path != "/healthz" else 200 if ok else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Probes are not worth a log line."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
