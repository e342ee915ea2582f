"""The instance metadata service, version 2 only: token, documents, and every way in which it can fail."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from spottune_agent.notice import PATHS, Reading

TOKEN_SECONDS = 21600
"""Longest life of a token that the service grants (six hours)."""
RENEW_BEFORE_SECONDS = 60.0
_TIMEOUT_SECONDS = 2.0
_BODY_LIMIT = 64 * 1024
_TOKEN_HEADER, _TTL_HEADER = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"


class ImdsError(Exception):
    """The service did not answer, or not in a way that can be used; the message says how."""


@dataclass(frozen=True)
class Look:
    """One look at all documents: what was there, and which could not be read and why. One bad document never hides another."""

    readings: tuple[Reading, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


class Imds:
    """Client of one metadata service. Not thread-safe: one thread looks."""

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic, timeout: float = _TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._prefix = parts.hostname or "", parts.port or 80, parts.path.rstrip("/")
        self._monotonic, self._timeout = monotonic, timeout
        self._token, self._renew_at = "", 0.0

    def look(self) -> Look:
        """Read every document of `PATHS`. Never raises: failures are in `Look.problems`."""
        readings, problems = [], {}
        for path in PATHS:
            try:
                body = self.get(f"meta-data/{path}")
            except ImdsError as error:
                problems[path] = str(error)
            else:
                if body is not None:
                    readings.append(Reading(path, body))
        return Look(tuple(readings), problems)

    def instance_id(self) -> str:
        """For example `i-0123456789abcdef0`. Raises `ImdsError`."""
        body = self.get("meta-data/instance-id")
        text = (body or b"").decode("ascii", "replace").strip()
        if not text.startswith("i-") or len(text) > 64:
            raise ImdsError(f"instance-id is {text[:64]!r}")
        return text

    def get(self, path: str) -> bytes | None:
        """Body of `/latest/PATH`, None for 404 (nothing there). Raises `ImdsError` for anything else."""
        status, _, body = self._authorized(path)
        if status == 401:
            # The service forgot our token (it restarted, or the machine slept through its life): once more with a new one.
            self._token = ""
            status, _, body = self._authorized(path)
        if status == 404:
            return None
        if status != 200:
            raise ImdsError(f"GET /latest/{path}: HTTP {status}")
        return body

    def _authorized(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        if not self._token or self._monotonic() >= self._renew_at:
            self._fetch_token()
        return self._request("GET", path, {_TOKEN_HEADER: self._token})

    def _fetch_token(self) -> None:
        asked_at = self._monotonic()
        status, headers, body = self._request("PUT", "api/token", {_TTL_HEADER: str(TOKEN_SECONDS)})
        token = body.decode("ascii", "replace").strip()
        if status != 200 or not token or len(token) > 1024 or not token.isprintable() or not token.isascii():
            raise ImdsError(f"PUT /latest/api/token: HTTP {status}, {len(body)} bytes")
        try:
            granted = float(headers.get(_TTL_HEADER.lower(), TOKEN_SECONDS))
        except ValueError:
            granted = TOKEN_SECONDS
        granted = min(max(granted, 0.0), TOKEN_SECONDS)
        # A short-lived token is renewed at half its life, so that it is not asked for on every request.
        self._token, self._renew_at = token, asked_at + max(granted - RENEW_BEFORE_SECONDS, granted / 2)

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        give_up = self._monotonic() + self._timeout
        try:
            with contextlib.closing(connection):
                connection.request(method, f"{self._prefix}/latest/{path}", headers=dict(headers))
                response = connection.getresponse()
                body = b""
                # Socket timeouts count per piece: a service that trickles is cut off by the total.
                while piece := response.read1(8192):
                    body += piece
                    if len(body) > _BODY_LIMIT or self._monotonic() > give_up:
                        raise ImdsError(f"{method} /latest/{path}: more than {_BODY_LIMIT} bytes or {self._timeout:g} s")
                return response.status, {name.lower(): value for name, value in response.getheaders()}, body
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImdsError(f"{method} /latest/{path}: {type(error).__name__}") from None
