"""An S3 server that takes data as fast as the kernel hands them over and forgets them: what a client reaches against it is the client's own limit.

It keeps objects of up to 1 MiB (records), of larger ones only the size, checks no signature, honours `If-None-Match: *`, and can
limit the bytes per second of each connection. It runs in a process of its own: its CPU time is not the client's.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from xml.sax.saxutils import escape

KEPT_BYTES = 1 << 20
_REASONS = {100: "Continue", 200: "OK", 204: "No Content", 404: "Not Found", 412: "Precondition Failed"}


class Sink:
    """The objects, shared by all connections. `rate`: bytes per second of one connection; 0: no limit."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.objects: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.lock = threading.Lock()

    def create(self, key: str, size: int, body: bytes, *, only_new: bool) -> bool:
        with self.lock:
            if only_new and key in self.sizes:
                return False
            self.sizes[key], self.objects[key] = size, body
            return True

    def listing(self, bucket: str, query: dict[str, str]) -> bytes:
        """One page of at most 1,000 keys."""
        root = f"{bucket}/"
        with self.lock:
            keys = sorted(key.removeprefix(root) for key in self.sizes if key.startswith(root))
        keys = [key for key in keys if key.startswith(query.get("prefix", "")) and key > query.get("start-after", "")]
        items = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys[:1000])
        return f"<ListBucketResult><IsTruncated>{str(len(keys) > 1000).lower()}</IsTruncated>{items}</ListBucketResult>".encode()


class Connection:
    """One client's connection: requests one after the other."""

    def __init__(self, sink: Sink, sock: socket.socket) -> None:
        self._sink = sink
        self._sock = sock
        self._ahead = bytearray()
        self._scratch = bytearray(1 << 20)

    def serve(self) -> None:
        with contextlib.suppress(ConnectionError), self._sock:
            while (head := self._head()) is not None:
                self._answer(*head)

    def _head(self) -> tuple[str, str, dict[str, str]] | None:
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            got = self._sock.recv(1 << 16)
            if not got:
                return None
            self._ahead += got
        lines = self._ahead[:end].decode("latin-1").split("\r\n")
        del self._ahead[: end + 4]
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return method, target, headers

    def _body(self, size: int) -> bytes:
        """Receive a body; its content if it is small."""
        started, got = time.monotonic(), min(size, len(self._ahead))
        small = bytearray(self._ahead[:got])
        del self._ahead[:got]
        view = memoryview(self._scratch)
        while got < size:
            count = self._sock.recv_into(view[: min(len(view), size - got)])
            if not count:
                raise ConnectionError
            if size <= KEPT_BYTES:
                small += view[:count]
            got += count
            if self._sink.rate and (early := started + got / self._sink.rate - time.monotonic()) > 0:
                time.sleep(early)
        return bytes(small) if size <= KEPT_BYTES else b""

    def _answer(self, method: str, target: str, headers: dict[str, str]) -> None:
        path, _, raw = target.partition("?")
        key, query = urllib.parse.unquote(path).lstrip("/"), dict(urllib.parse.parse_qsl(raw, keep_blank_values=True))
        size = int(headers.get("content-length", "0"))
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(size)
        if method == "PUT" and "uploadId" not in query and "/" in key:
            created = self._sink.create(key, size, body, only_new="if-none-match" in headers)
            self._send(200 if created else 412, b"" if created else b"<Error><Code>PreconditionFailed</Code></Error>")
        elif method == "PUT":
            self._send(200)
        elif method == "POST" and "uploads" in query:
            self._send(200, b"<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>")
        elif method == "POST":
            self._send(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
        elif method == "DELETE":
            with self._sink.lock:
                self._sink.sizes.pop(key, None)
            self._send(204)
        elif "list-type" in query:
            self._send(200, self._sink.listing(key.partition("/")[0], query))
        elif key not in self._sink.sizes:
            self._send(404, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        elif method == "HEAD":
            self._send(200, size=self._sink.sizes[key])
        else:
            self._send(200, self._sink.objects[key])

    def _send(self, status: int, body: bytes = b"", *, size: int | None = None) -> None:
        length = len(body) if size is None else size
        self._sock.sendall(f'HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {length}\r\nETag: "0"\r\n\r\n'.encode() + body)


def serve(rate: float) -> None:
    """Serve until standard input is closed. The first line written is the port."""
    sink = Sink(rate)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rate:
        # What waits in a buffer has left the client already: little of it, or the limit would not be one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(sink, sock).serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


@contextmanager
def running(rate: float = 0.0) -> Iterator[int]:
    """A sink in a process of its own; its port on 127.0.0.1."""
    command = [sys.executable, "-m", "benchmarks.checkpoint.sink", "--rate", str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert re.fullmatch(r"\d+\n", line), "the sink did not start"
            yield int(line)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=0.0, help="bytes per second of each connection; 0: no limit")
    serve(parser.parse_args().rate)
