"""How the operator's loops end together."""

from __future__ import annotations

import asyncio

import pytest

from spottune_operator.main import _until_one_ends


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_when_kopf_is_about_to_end_all_else_ends_before_it_and_nobody_waits() -> None:
    ending, loop = asyncio.Event(), asyncio.create_task(for_ever())

    async def kopf() -> None:
        ending.set()
        while not loop.cancelled():
            await asyncio.sleep(0)

    await asyncio.wait_for(_until_one_ends([loop], asyncio.create_task(kopf()), ending), 5)


async def test_an_error_of_kopf_is_told_though_it_says_first_that_it_ends() -> None:
    ending = asyncio.Event()

    async def kopf() -> None:
        ending.set()
        await asyncio.sleep(0)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await _until_one_ends([asyncio.create_task(for_ever())], asyncio.create_task(kopf()), ending)


async def test_any_other_loop_that_ends_takes_all_with_it() -> None:
    async def ends() -> None:
        pass

    async def breaks() -> None:
        raise KeyError("x")

    watch = asyncio.create_task(for_ever())
    with pytest.raises(RuntimeError, match="'queue' has ended"):
        await _until_one_ends([asyncio.create_task(ends(), name="queue")], watch, asyncio.Event())
    assert watch.cancelled()
    with pytest.raises(KeyError):
        await _until_one_ends([asyncio.create_task(breaks())], asyncio.create_task(for_ever()), asyncio.Event())
