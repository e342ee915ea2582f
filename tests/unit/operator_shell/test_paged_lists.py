"""Lists of everything come in pages: neither side holds ten thousand objects as one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from spottune_contract.labels import JOB
from spottune_operator.cluster import PAGE, KubernetesCluster, Unavailable


class Pages:
    """An HTTP server that hands out its pages one by one, each under the token that the one before it told."""

    def __init__(self) -> None:
        self.pages: dict[str, list[str]] = {"": ["a", "b"], "t1": ["c", "d"], "t2": ["e"]}
        self.expired = ""
        self.asked: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        tokens = list(self.pages)
        token = request.query.get("continue", "")
        if token and token == self.expired:
            return web.json_response({"reason": "Expired", "message": "too old"}, status=410)
        following = tokens[tokens.index(token) + 1 :] or [""]
        items = [{"metadata": {"name": name}} for name in self.pages[token]]
        return web.json_response({"metadata": {"continue": following[0]}, "items": items})


@pytest.fixture
async def pages() -> AsyncIterator[tuple[Pages, KubernetesCluster]]:
    served = Pages()
    app = web.Application()
    app.router.add_get("/{path:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    cluster = KubernetesCluster(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    yield served, cluster
    await cluster.close()
    await runner.cleanup()


async def whole(pages: AsyncIterator[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [item async for page in pages for item in page]


@pytest.mark.parametrize("kind", ["jobs", "pods", "nodes"])
async def test_all_pages_are_read(pages: tuple[Pages, KubernetesCluster], kind: str) -> None:
    served, cluster = pages
    found = (
        await whole(cluster.pages_of_jobs()) if kind == "jobs" else await {"pods": cluster.list_pods, "nodes": cluster.list_nodes}[kind]()
    )
    assert [item["metadata"]["name"] for item in found] == ["a", "b", "c", "d", "e"]
    assert {item["kind"] for item in found} == {{"jobs": "FineTuneJob", "pods": "Pod", "nodes": "Node"}[kind]}
    assert [query["limit"] for query in served.asked] == [str(PAGE)] * 3
    assert [query.get("continue") for query in served.asked] == [None, "t1", "t2"]


async def test_every_page_is_asked_for_with_the_same_selector(pages: tuple[Pages, KubernetesCluster]) -> None:
    served, cluster = pages
    await whole(cluster.pages_of_pods())
    assert [query["labelSelector"] for query in served.asked] == [JOB] * 3


async def test_half_a_list_is_no_list(pages: tuple[Pages, KubernetesCluster]) -> None:
    """A missing pod would be taken for one that is gone."""
    served, cluster = pages
    served.expired = "t2"
    with pytest.raises(Unavailable):
        await cluster.list_pods()
