"""Objects written into etcd as an API server stores them: what another API server of the same cluster would do.

On a machine of few cores this leaves the one that is measured its time: creating a job and its pod costs it 70 ms of CPU, and hearing
of both from etcd less than one. Its watches tell of them like of everything else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.operator.api import Json
from spottune_contract.labels import GROUP, PLURAL

AT_ONCE = 100


def job_key(namespace: str, name: str) -> str:
    return f"/registry/{GROUP}/{PLURAL}/{namespace}/{name}"


def pod_key(namespace: str, name: str) -> str:
    return f"/registry/pods/{namespace}/{name}"


def lease_key(namespace: str, name: str) -> str:
    return f"/registry/leases/{namespace}/{name}"


def stored(document: Json) -> Json:
    """The document without its resourceVersion, which is etcd's own. Pure."""
    return document | {"metadata": {name: value for name, value in document["metadata"].items() if name != "resourceVersion"}}


@dataclass(frozen=True)
class Etcd:
    """etcd's JSON gateway."""

    endpoint: str
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def opened(cls, endpoint: str) -> AsyncIterator[Etcd]:
        async with aiohttp.ClientSession() as session:
            yield cls(endpoint, session)

    async def put(self, objects: Sequence[tuple[str, Json]]) -> None:
        """Write all, many in one transaction."""
        for begin in range(0, len(objects), AT_ONCE):
            await self._txn([], objects[begin : begin + AT_ONCE])

    async def swap(self, key: str, document: Json, version: str) -> bool:
        """Write, if the object's resourceVersion still is `version`. This is how API servers write."""
        compare = {"key": _encoded(key), "target": "MOD", "result": "EQUAL", "modRevision": version}
        return await self._txn([compare], [(key, document)])

    async def _txn(self, compare: list[Json], objects: Sequence[tuple[str, Json]]) -> bool:
        puts = [{"requestPut": {"key": _encoded(key), "value": _encoded(json.dumps(stored(each)))}} for key, each in objects]
        async with self.session.post(f"{self.endpoint}/v3/kv/txn", json={"compare": compare, "success": puts}) as response:
            answer: Json = await response.json(content_type=None)
        assert response.status == 200, answer
        return bool(answer.get("succeeded"))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
