"""What asyncio leaves to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until all have ended; how they ended is left to their results."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
