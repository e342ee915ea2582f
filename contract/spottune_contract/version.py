"""Version of the contract: sent by the operator, checked by the trainer before it touches storage."""

from __future__ import annotations

from typing import Final, Literal

CONTRACT_VERSION = "1.0"
"""`MAJOR.MINOR`. A trainer accepts an operator of its own major version; a new minor version only adds fields."""

LOG_PROTOCOL: Final[Literal[1]] = 1
"""Stamped into every log record. A reader refuses a higher number instead of guessing what a newer writer meant."""


class IncompatibleContract(ValueError):
    """The operator and the trainer image do not speak the same major version."""


def check_contract(sent: str, own: str = CONTRACT_VERSION) -> None:
    """Raise `IncompatibleContract` unless `sent` has the major version of `own`; the message names the remedy."""
    major = sent.partition(".")[0]
    if not major.isdigit() or major != own.partition(".")[0]:
        raise IncompatibleContract(
            f"the operator speaks contract {sent!r}, this trainer image {own!r}: "
            "set podOverrides.image (or the chart's trainer.image) to a trainer of the operator's release"
        )
