"""Client of the trainer's `POST /checkpoint`."""

from __future__ import annotations

import contextlib
import http.client

from spottune_contract.progress import CheckpointRequest

_TIMEOUT_SECONDS = 2.0
CHECKPOINT_PATH = "/checkpoint"


class TrainerError(Exception):
    """The trainer was not reached or did not accept the request; the message says how."""


def tell(address: str, port: int, request: CheckpointRequest, *, timeout: float = _TIMEOUT_SECONDS) -> None:
    """Ask the trainer at `address` for a commit; returns once it has accepted. Raises `TrainerError`."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        with contextlib.closing(connection):
            connection.request("POST", CHECKPOINT_PATH, request.model_dump_json(), {"Content-Type": "application/json"})
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise TrainerError(f"{address}:{port}: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise TrainerError(f"{address}:{port}: HTTP {status}")
