"""Which commit is meant, what the folder holds, and that it is written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spottune_cli import restore
from spottune_cli.bucket import Bucket
from spottune_cli.errors import Refusal
from spottune_cli.history import understand
from spottune_contract.records import decode
from tests.unit.checkpoint.stores import QuietStore, owner
from tests.unit.cli.logs import claim, commit, history, resume, story

STATE = {"adapter.safetensors": b"weights", "optimizer.safetensors": b"moments", "trainer.json": b'{"adapter_config": {"r": 8}}'}


@pytest.mark.parametrize(("at", "slot"), [("latest", 9), ("final", 9), ("60", 9), ("30", 8), ("10", 7)])
def test_a_commit_is_named_by_its_step_or_by_a_word(at: str, slot: int) -> None:
    assert restore.choose(history(story()), at).slot == slot


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("37", "step 37 is not kept; kept: 10, 30 (final 60)"),
        ("20", "step 20 is not kept; kept: 10, 30 (final 60)"),
        ("-1", "is no step"),
        ("²", "is no step"),
        ("newest", "give a number, `latest` or `final`; kept: 10, 30 (final 60)"),
    ],
)
def test_a_step_that_is_not_there_is_answered_with_those_that_are(at: str, said: str) -> None:
    with pytest.raises(Refusal) as refusal:
        restore.choose(history(story()), at)
    assert said in str(refusal.value)
    assert refusal.value.code == 2


def test_a_swept_step_is_told_from_one_that_never_was() -> None:
    with pytest.raises(Refusal, match=r"step 20 is not kept \(committed in slot 3, its data are swept\); kept: 10, 30"):
        restore.choose(history(story(), 3), "20")


def test_without_a_final_commit_there_is_none_to_restore() -> None:
    with pytest.raises(Refusal, match="the run is not finished; kept: 10, 30"):
        restore.choose(history(story()[:-1]), "final")
    with pytest.raises(Refusal, match="nothing was committed yet"):
        restore.choose(history([claim(0, 1), resume(1, 1, None)]), "latest")


def test_a_commit_that_cannot_be_read_is_answered_with_the_others() -> None:
    log = history(story())
    assert "trouble; give another step with --at, kept: 10, 30" in restore.unreadable(log, log.log.commit(9), "trouble")


def test_the_adapter_is_what_the_trainers_export_makes_and_full_adds_the_state() -> None:
    record = commit(2, 1, 10)
    assert list(restore.contents(record, STATE, full=False)) == ["adapter_model.safetensors", "adapter_config.json"]
    full = restore.contents(record, STATE, full=True)
    assert json.loads(full["adapter_config.json"]) == {"r": 8}
    assert {name: full[f"state/{name}"] for name in STATE} == STATE
    assert decode(full["state/commit.json"].rstrip(), 2) == record


@pytest.mark.parametrize(
    "files", [{}, {"trainer.json": b"{}"}, {"trainer.json": b"[]", "adapter.safetensors": b""}, {"adapter.safetensors": b""}]
)
def test_a_state_without_an_adapter_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(Refusal, match="slot 2 \\(step 10\\) holds no adapter"):
        restore.contents(commit(2, 1, 10), files, full=False)


def test_only_the_adapters_files_are_downloaded_unless_all_are_wanted() -> None:
    store = QuietStore()
    owner(store).commit(STATE, step=10, samples_seen=1, reason="interval")
    asked: list[str] = []
    get = store.get
    store.get = lambda key, limit: (asked.append(key), get(key, limit))[1]  # type: ignore[method-assign,func-returns-value]
    contents = Bucket(store).contents("data/")
    record = restore.choose(understand(contents.log, contents.keys), "latest")
    assert Bucket(store).load(record, restore.NEEDED) == {name: STATE[name] for name in restore.NEEDED}
    assert not any("optimizer" in key for key in asked)
    assert Bucket(store).load(record, tuple(record.digests)) == STATE


# --- the folder -------------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_is_made_or_an_empty_one_filled(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "deep" / "adapter"
    if existing:
        folder.mkdir(parents=True)
    restore.check_target(folder, force=False)
    restore.write(folder, {"a": b"1", "state/b": b"2"})
    assert names(tmp_path / "deep") == ["adapter", "adapter/a", "adapter/state", "adapter/state/b"]


def test_a_folder_with_something_in_it_is_refused_and_with_force_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    with pytest.raises(Refusal, match="is not empty"):
        restore.check_target(folder, force=False)
    restore.check_target(folder, force=True)
    restore.write(folder, {"a": b"1"})
    assert names(tmp_path) == ["adapter", "adapter/a"]


def test_a_file_or_a_link_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(Refusal, match="is no folder"):
            restore.check_target(tmp_path / name, force=True)


def test_if_writing_fails_the_folder_is_what_it_was_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    with pytest.raises(Refusal, match="cannot be written: File name too long"):
        restore.write(folder, {"a": b"1", "n" * 300: b"2"})
    assert names(tmp_path) == ["adapter", "adapter/precious"]
