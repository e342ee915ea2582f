"""The API server as users and kubelets see it: few calls, little CPU time of our own."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp

from spottune_contract.labels import API_VERSION, GROUP, PLURAL

Json = dict[str, Any]
T = TypeVar("T")

JOBS = f"/apis/{GROUP}/{API_VERSION}/{PLURAL}"
PODS = "/api/v1/pods"
MERGE = "application/merge-patch+json"


def jobs_in(namespace: str) -> str:
    return f"/apis/{GROUP}/{API_VERSION}/namespaces/{namespace}/{PLURAL}"


def pods_in(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


class Api:
    """JSON over HTTPS with the administrator's rights."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session

    @classmethod
    @asynccontextmanager
    async def opened(cls, server: str, context: ssl.SSLContext) -> AsyncIterator[Api]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(ssl=context, limit=64)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            session.headers["Accept-Encoding"] = "identity"
            yield cls(server, session)

    async def call(self, method: str, path: str, body: Json | None = None, *, missing_ok: bool = False) -> Json:
        """The answer's document. Raises `RuntimeError` with the API server's words for a refusal."""
        kind = MERGE if method == "PATCH" else "application/json"
        data = json.dumps(body) if body is not None else None
        async with self._session.request(method, self._server + path, data=data, headers={"Content-Type": kind}) as response:
            text = await response.read()
        if response.status >= 300 and not (missing_ok and response.status == 404):
            raise RuntimeError(f"{method} {path}: {response.status} {text[:500]!r}")
        document: Json = json.loads(text)
        return document

    async def watch(self, path: str) -> AsyncIterator[tuple[str, Json]]:
        """Type and object of every change from now on, until cancelled; first of everything that there is (`ADDED`)."""
        query = "?watch=true&allowWatchBookmarks=true&timeoutSeconds=3600"
        async with self._session.get(self._server + path + query, read_bufsize=2**22) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    yield event["type"], event["object"]


async def at_once(calls: Iterable[Callable[[], Awaitable[T]]], limit: int = 48) -> list[T]:
    """All calls, `limit` at a time."""
    gate = asyncio.Semaphore(limit)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    return list(await asyncio.gather(*(one(call) for call in calls)))
