"""Each way to lose a machine, and the parts of what that takes. Every figure is the worst of all that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.interruption.scene import Taken, interrupted
from benchmarks.report import Figure
from examples.demo.kills import Kind

_LOAD = "the limit is importing torch and loading the model, on cores that all machines share"


def cold(quick: bool) -> list[Figure]:
    """Notice on IMDS and in the queues; the next attempt starts when the pod has gone."""
    seen = interrupted(Kind.NOTICE, 1 if quick else 3)
    return [
        _worst("notice_to_signal_s", seen, lambda t: t.between("notice", "signal"), 3.0, "notice on IMDS → the trainer knows"),
        _worst(
            "notice_to_durable_beyond_micro_step_s",
            seen,
            lambda t: t.between("notice", "durable") - t.between("signal", "stepEnd"),
            2.0,
            "notice → durable commit, less the micro-step that was under way",
        ),
        _worst("cold_to_useful_s", seen, _to_useful, 30.0, f"notice → first step elsewhere, less {_wait(seen)} for a machine; {_LOAD}"),
        _redone("cold_steps_redone", seen),
    ]


def warm(quick: bool) -> list[Figure]:
    """The same with `handover: Warm`: the next attempt loads while the old one trains on."""
    seen = interrupted(Kind.NOTICE, 1 if quick else 2, "Warm")
    return [
        _worst(
            "warm_without_work_s",
            seen,
            lambda t: t.between("durable", "firstStep"),
            5.0,
            "last commit of the old attempt → first step of the next one",
        ),
        _worst(
            "warm_to_useful_elsewhere_s",
            seen,
            lambda t: t.between("notice", "firstStep"),
            None,
            f"notice → first step elsewhere, with {_wait(seen)} for a machine: the old attempt trains on meanwhile",
        ),
        _redone("warm_steps_redone", seen),
    ]


def power_off(quick: bool) -> list[Figure]:
    """Everything on the machine dies at once, and nobody is told."""
    seen = interrupted(Kind.POWER_OFF, 1 if quick else 2)
    return [
        _worst("power_off_to_detected_s", seen, lambda t: max(0.0, t.begun - t.at), 30.0, "power cut → the operator takes it for off"),
        _worst(
            "power_off_detected_to_useful_s",
            seen,
            lambda t: t.points["firstStep"] - t.begun - _waited(t),
            30.0,
            f"… → first step elsewhere, less {_wait(seen)} for a machine; {_LOAD}",
        ),
    ]


def _waited(taken: Taken) -> float:
    """Seconds until the next attempt had a node."""
    return taken.between("gone", "placed")


def _to_useful(taken: Taken) -> float:
    return taken.between("notice", "firstStep") - _waited(taken)


def _wait(seen: Sequence[Taken]) -> str:
    waits = [_waited(taken) for taken in seen]
    return f"{min(waits):.0f} to {max(waits):.0f} s"


def _worst(name: str, seen: Sequence[Taken], measure: Callable[[Taken], float], goal: float | None, detail: str) -> Figure:
    values = sorted(measure(taken) for taken in seen)
    return Figure(name, values[-1], "s", goal, detail=f"worst of {len(values)} (best {values[0]:.1f}); {detail}")


def _redone(name: str, seen: Sequence[Taken]) -> Figure:
    return Figure(
        name, float(sum(t.steps_redone for t in seen)), "", 0.0, detail=f"finished steps done again, of {len(seen)} interruptions"
    )
