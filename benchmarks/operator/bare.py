"""A kopf that hears of all jobs and does nothing: `python bare.py KUBECONFIG`. It prints a line for each job that it hears of first."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import kopf

from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from spottune_operator.cluster import load_configuration
from spottune_operator.handlers import configure, connection


async def run(kubeconfig: str) -> None:
    """Until killed."""
    access = await load_configuration(kubeconfig)
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection(access)

    @kopf.on.event(GROUP, API_VERSION, PLURAL, registry=handlers)
    async def heard(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] is None:
            print("heard", flush=True)

    await kopf.operator(registry=handlers, standalone=True, clusterwide=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
