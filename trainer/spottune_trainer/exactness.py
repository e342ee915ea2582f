"""What makes a resume exact, and the proof of it for the condition `ResumeExact`. Pure; docs/exactness.md says it in prose.

Every state carries the compute classes that its steps were computed by. So the answer is about the whole lineage: a job that
went from one class to another and back is not bitwise exact, and an attempt that finished no step leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spottune_contract.progress import ExactnessView
from spottune_trainer.compute import UNKNOWN

SHOWN_DIGITS = 12
"""Hex digits of a digest in a sentence for people."""
MICRO_BATCH = "microBatch"


@dataclass(frozen=True)
class Makers:
    """The compute classes by which the steps of a lineage were computed, in the order of their first use."""

    classes: tuple[tuple[int, str], ...] = ()
    """Finished steps when the class was first used, and the class. The first is used from step 0 on."""

    def joined_by(self, own: str, step: int) -> Makers:
        """With a process of class `own` that goes on from `step`. Until it finishes a step, this is not saved."""
        for place, (since, known) in enumerate(self.classes):
            if not differences(known, own):
                # The first attempt does not know the digest of its own image, later ones do.
                return Makers((*self.classes[:place], (since, _knowing_more(known, own)), *self.classes[place + 1 :]))
        return Makers((*self.classes, (step, own)))

    @property
    def one(self) -> bool:
        """Whether a single class computed everything: then the result is the uninterrupted run's to the bit."""
        return len(self.classes) == 1

    def changed(self) -> list[str]:
        """What is not the same in all classes, for example `microBatch 2 → 4`."""
        return differences(*(name for _, name in self.classes))

    @property
    def changed_since(self) -> int:
        """Finished steps when the second class came in."""
        return self.classes[1][0]

    def document(self) -> list[list[int | str]]:
        """As JSON."""
        return [[since, name] for since, name in self.classes]

    @classmethod
    def parse(cls, value: object) -> Makers:
        """Read it back. Raises `ValueError` if it is not what `document` writes."""
        if not isinstance(value, list) or not value:
            raise ValueError("the compute classes that made the state are not a list")
        for item in value:
            if not (isinstance(item, list) and len(item) == 2 and type(item[0]) is int and item[0] >= 0 and isinstance(item[1], str)):
                raise ValueError("a compute class that made the state is not a step and a text")
        return cls(tuple((since, name) for since, name in value))


@dataclass(frozen=True)
class Proof:
    """What was compared when a COMMIT was restored. Digests are SHA-256, 64 hex digits, by file name."""

    slot: int
    step: int
    committed: Mapping[str, str]
    """Of all files, as the COMMIT says and as they were found after the download."""
    live: Mapping[str, str]
    """Of the files that are state in memory, encoded anew from there."""
    log: str = ""
    """Location of the log that the COMMIT is in, if it is another job's."""

    @property
    def differing(self) -> list[str]:
        """Files that are not in memory as they were committed."""
        return sorted(name for name, digest in self.live.items() if digest != self.committed.get(name))


def started(own: str) -> ExactnessView:
    """Nothing was restored: the run starts at step 0."""
    message = f"Nothing was restored: the run starts at step 0, and this attempt defines the compute class: {own}"
    return ExactnessView(exact=True, reason="FirstAttempt", message=message, compute_class=own)


def resumed(own: str, makers: Makers, proof: Proof) -> ExactnessView:
    """The answer for a process of class `own` that goes on from what `proof` is about; `makers` with it joined."""
    restored = f"step {proof.step} restored from slot {proof.slot}{f' of {proof.log}' if proof.log else ''}"
    digests = ", ".join(f"{name.partition('.')[0]} {digest[:SHOWN_DIGITS]}" for name, digest in proof.live.items())
    compared = f"SHA-256 of {len(proof.committed)} files verified, {len(proof.live)} of them again from memory ({digests})"
    changed = makers.changed()
    if proof.differing:
        reason = "StateDiffers"
        message = f"Not exact: {restored}, but encoded again from memory, {', '.join(proof.differing)} is not what was committed"
    elif makers.one:
        reason = "StateVerified"
        message = f"Exact to the bit: {restored}, {compared}; one compute class since step 0: {own}"
    else:
        only_micro_batch = all(text.startswith(f"{MICRO_BATCH} ") for text in changed)
        reason = "MicroBatchChanged" if only_micro_batch else "ComputeClassChanged"
        message = (
            f"Not to the bit: {', '.join(changed)} since step {makers.changed_since}. The state is exact: {restored}, {compared}. "
            f"Compute class now: {own}"
        )
    return ExactnessView(
        exact=reason == "StateVerified",
        reason=reason,
        message=message,
        compute_class=own,
        parent_slot=proof.slot,
        parent_step=proof.step,
        digests=dict(proof.committed),
        changed=changed,
    )


def differences(*classes: str) -> list[str]:
    """What is not the same in all of them, for example `threads 2 → 4`, `torch 2.15.0 → 2.16.0`; each value once, in order.

    An image that is not known is not compared.
    """
    sides = [_pairs(text) for text in classes]
    found = []
    for name in dict.fromkeys(name for side in sides for name in side):
        values = dict.fromkeys(side.get(name, "(none)") for side in sides)
        if name == "image":
            values.pop(UNKNOWN, None)
        if len(values) > 1:
            found.append(f"{name} {' → '.join(values)}")
    return found


def _knowing_more(known: str, own: str) -> str:
    return own if _pairs(known).get("image") == UNKNOWN else known


def _pairs(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in text.split("; "))}
