"""A kopf that hears of all jobs and does nothing: `python bare.py KUBECONFIG`. It prints a line for each job that it hears of first."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import kopf

from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from spottune_operator.cluster import load_configuration
from spottune_operator.handlers import connected


async def run(kubeconfig: str) -> None:
    """Until killed."""
    handlers = connected(await load_configuration(kubeconfig))

    @kopf.on.event(GROUP, API_VERSION, PLURAL, registry=handlers)
    async def heard(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] is None:
            print("heard", flush=True)

    await kopf.operator(registry=handlers, standalone=True, clusterwide=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
