"""Which lineages are exact to the bit, and how that is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_trainer.exactness import Makers, Proof, differences, resumed, started

A, B, C = ("accelerator=a; threads=2; microBatch=2", "accelerator=a; threads=2; microBatch=4", "accelerator=b; threads=2; microBatch=2")
NAMES = ("adapter", "optimizer", "history", "rng", "cursor")
LIVE = {f"{name}.safetensors": f"{place}" * 64 for place, name in enumerate(NAMES)}
PROOF = Proof(57, 40, LIVE | {"trainer.json": "f" * 64}, LIVE)


def joined(*classes: str) -> Makers:
    makers = Makers()
    for place, name in enumerate(classes):
        makers = makers.joined_by(name, 10 * place)
    return makers


def test_a_run_that_starts_at_step_0_defines_the_class() -> None:
    view = started(A)
    assert (view.exact, view.reason, view.parent_slot) == (True, "FirstAttempt", None)
    assert A in view.message


def test_one_class_in_all_attempts_is_exact_and_the_proof_names_slot_digests_and_class() -> None:
    view = resumed(A, joined(A, A, A), PROOF)
    assert (view.exact, view.reason, view.parent_slot, view.parent_step, view.changed) == (True, "StateVerified", 57, 40, [])
    assert view.digests == PROOF.committed
    assert view.message == (
        "Exact to the bit: step 40 restored from slot 57, SHA-256 of 6 files verified, 5 of them again from memory (adapter 000000000000, "
        f"optimizer 111111111111, history 222222222222, rng 333333333333, cursor 444444444444); one compute class since step 0: {A}"
    )


def test_another_micro_batch_is_said_by_its_own_reason() -> None:
    view = resumed(B, joined(A, B), PROOF)
    assert (view.exact, view.reason, view.changed) == (False, "MicroBatchChanged", ["microBatch 2 → 4"])
    assert view.message.startswith("Not to the bit: microBatch 2 → 4 since step 10. The state is exact: step 40 restored from slot 57")


def test_going_back_to_the_first_class_does_not_make_the_lineage_exact_again() -> None:
    view = resumed(A, joined(A, B, A), PROOF)
    assert (view.exact, view.reason, view.changed) == (False, "MicroBatchChanged", ["microBatch 2 → 4"])
    assert view.compute_class == A


@pytest.mark.parametrize("classes", [(A, C), (A, B, C), (A, C, A)])
def test_anything_else_that_changed_is_a_changed_class(classes: tuple[str, ...]) -> None:
    view = resumed(classes[-1], joined(*classes), PROOF)
    assert (view.exact, view.reason) == (False, "ComputeClassChanged")
    assert "accelerator a → b" in view.changed


def test_a_live_state_that_is_not_the_committed_one_is_never_called_exact() -> None:
    proof = Proof(57, 40, PROOF.committed, LIVE | {"optimizer.safetensors": "0" * 64})
    view = resumed(A, joined(A, A), proof)
    assert (view.exact, view.reason) == (False, "StateDiffers")
    assert "optimizer.safetensors is not what was committed" in view.message


def test_every_value_is_named_once_in_the_order_of_its_appearance() -> None:
    assert differences("threads=2", "threads=4; peft=1", "threads=2") == ["threads 2 → 4", "peft (none) → 1"]
    assert differences(A, A) == []


def test_an_image_that_is_not_known_is_not_compared_but_two_known_ones_are() -> None:
    unknown, first, second = "threads=2; image=unknown", "threads=2; image=sha256:ab", "threads=2; image=sha256:cd"
    assert joined(unknown, first).one
    assert joined(first, unknown).one
    assert joined(unknown, first, second).changed() == ["image sha256:ab → sha256:cd"]


@given(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=30))
def test_a_lineage_is_one_class_only_if_it_always_was_and_never_remembers_a_class_twice(classes: list[str]) -> None:
    makers = joined(*classes)
    assert makers.one == (len(set(classes)) == 1)
    assert [name for _, name in makers.classes] == list(dict.fromkeys(classes))
    assert makers.classes[0][0] == 0
    assert Makers.parse(makers.document()) == makers


@pytest.mark.parametrize("document", [None, [], {}, [[0]], [["0", "a"]], [[-1, "a"]], [[True, "a"]], [[0, 1]], ["ab"]])
def test_what_is_no_list_of_classes_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="made the state"):
        Makers.parse(document)


def test_a_long_class_leaves_the_sentence_within_what_a_condition_holds() -> None:
    flags = "AuthenticAMD-25-17 avx2+fma+avx512f+avx512bw+avx512dq+avx512vl+avx512_vnni+avx512_bf16"
    versions = "torch=2.15.0; transformers=5.23.0; peft=0.21.0; safetensors=0.8.0; numpy=2.4.6"
    own = f"accelerator={flags}; threads=2; world=1; microBatch=2; image=sha256:{'a' * 64}; {versions}"
    assert len(resumed(own, joined(own), PROOF).message) < 800
    assert len(resumed(own, joined(own.replace("microBatch=2", "microBatch=4"), own), PROOF).message) < 900
