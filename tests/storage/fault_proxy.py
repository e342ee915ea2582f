"""An HTTP proxy before an S3 server that signs every request anew, so that it can change, lose or refuse what passes. Only for tests."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from localcloud.objectstore import REGION, ObjectStore

KEPT = ("if-none-match", "content-type", "range")
CODES = {403: "AccessDenied", 501: "NotImplemented", 503: "SlowDown"}


@dataclass(frozen=True)
class Passing:
    """One request on its way."""

    method: str
    key: str
    """Path without the bucket."""
    once: bool = False
    """With `If-None-Match`: only if nothing is there."""


class FaultProxy:
    """What to do with requests; every hook may be replaced at any time."""

    def __init__(self, store: ObjectStore, address: str = "127.0.0.1") -> None:
        self.ignore: Callable[[Passing], bool] = lambda request: False
        """Forward without its condition: what is there is overwritten."""
        self.pretend: Callable[[Passing], bool] = lambda request: False
        """Answer with success and forward nothing."""
        self.refuse: Callable[[Passing], int | tuple[int, str] | None] = lambda request: None
        """Answer with this status, and code, instead of forwarding."""
        self.lose: Callable[[Passing], bool] = lambda request: False
        """Forward, then close the connection without an answer."""
        self.cut: Callable[[Passing], bool] = lambda request: False
        """Forward, then send only half of the answer's body."""
        self.seen: list[Passing] = []
        self._turn = threading.Lock()
        self._upstream = store.endpoint.removeprefix("http://")
        self._credentials = Credentials(store.access_key, store.secret_key)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._pass(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pass(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(handler.path).path
        key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
        request = Passing(handler.command, key, once="If-None-Match" in handler.headers)
        self.seen.append(request)
        refusal = self.refuse(request)
        if refusal is not None:
            status, code = refusal if isinstance(refusal, tuple) else (refusal, CODES.get(refusal, "InternalError"))
            self._answer(handler, status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())
            return
        if self.pretend(request):
            self._answer(handler, 200, {"ETag": '"0"'}, b"")
            return
        if request.key.rpartition("/")[0].endswith("/probe"):
            # In turn, so that a hook decides by the order in which requests take effect.
            with self._turn:
                answer, content = self._forward(handler, body, keep_condition=not self.ignore(request))
        else:
            answer, content = self._forward(handler, body, keep_condition=not self.ignore(request))
        if self.lose(request):
            handler.close_connection = True
            handler.connection.close()
            return
        headers = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("transfer-encoding", "connection", "content-length")
        }
        if handler.command == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length") or "0"
        self._answer(handler, answer.status, headers, content, cut=self.cut(request))

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, *, keep_condition: bool) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {name: value for name, value in handler.headers.items() if name.lower() in KEPT}
        if not keep_condition:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        signed = AWSRequest(handler.command, f"http://{self._upstream}{handler.path}", headers, body)
        S3SigV4Auth(self._credentials, "s3", REGION).add_auth(signed)
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.request(handler.command, handler.path, body or None, dict(signed.headers.items()))
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            handler.close_connection = True


@contextmanager
def fault_proxy(store: ObjectStore) -> Iterator[FaultProxy]:
    proxy = FaultProxy(store)
    try:
        yield proxy
    finally:
        proxy.close()
