"""Talking to trainers over HTTP: pull `/progress`, ask for a commit. Every call is short and may fail without harm."""

from __future__ import annotations

import aiohttp
from pydantic import ValidationError

from spottune_contract.labels import TRAINER_PORT
from spottune_contract.progress import CheckpointRequest, Progress

TIMEOUT = 2.0
"""Seconds for one call. A trainer that is slower than this is busy; the next poll will reach it."""
MAX_BODY = 256 * 1024


class Unreachable(Exception):
    """No answer, or not one of a trainer. The message says which."""


class Trainers:
    """HTTP client of all trainers. Close it when done."""

    def __init__(self, *, port: int = TRAINER_PORT) -> None:
        self._port = port
        # Pod addresses are the cluster's own: a proxy from the environment has nothing to do with them.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        await self._session.close()

    async def progress(self, ip: str) -> Progress:
        """What the trainer at `ip` says of itself. Raises `Unreachable`."""
        try:
            async with self._session.get(self._url(ip, "progress"), allow_redirects=False) as response:
                body = await _at_most(response.content, MAX_BODY + 1)
                if response.status != 200 or len(body) > MAX_BODY:
                    raise Unreachable(f"/progress answered {response.status} with {len(body)} bytes")
                return Progress.model_validate_json(body)
        except ValidationError as error:
            raise Unreachable(f"/progress is not a report of this contract: {error.error_count()} fields differ") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"/progress: {type(error).__name__}") from None

    async def ask_checkpoint(self, ip: str, request: CheckpointRequest) -> None:
        """Ask the trainer at `ip` to commit. Raises `Unreachable`."""
        try:
            async with self._session.post(
                self._url(ip, "checkpoint"), json=request.model_dump(mode="json"), allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise Unreachable(f"/checkpoint answered {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"/checkpoint: {type(error).__name__}") from None

    def _url(self, ip: str, path: str) -> str:
        host = f"[{ip}]" if ":" in ip else ip
        return f"http://{host}:{self._port}/{path}"


async def _at_most(stream: aiohttp.StreamReader, limit: int) -> bytes:
    """The body, or its first `limit` bytes: a trainer pod runs its user's image and may send anything."""
    parts: list[bytes] = []
    missing = limit
    while missing and (part := await stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
