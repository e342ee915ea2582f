"""kopf as a mere trigger: it keeps nothing in objects, and does not compare them."""

from __future__ import annotations

import kopf

from spottune_operator.handlers import Patience, configure


def test_kopf_neither_compares_objects_nor_writes_into_them() -> None:
    settings = kopf.OperatorSettings()
    configure(settings, lambda: None)
    body = kopf.Body({"metadata": {"name": "a", "annotations": {"b": "c"}}, "spec": {"x": 1}})
    patch = kopf.Patch(body=body)
    differences, progress = settings.persistence.diffbase_storage, settings.persistence.progress_storage
    essence = differences.build(body=body)
    assert (essence, differences.fetch(body=body), progress.clear(essence=essence)) == ({}, None, {})
    differences.store(body=body, patch=patch, essence=essence)
    progress.touch(body=body, patch=patch, value="now")
    assert not patch


def test_kopf_never_gives_up_and_says_when_it_tries_again() -> None:
    tries = list[str]()
    pauses = iter(Patience(lambda: tries.append("again")))
    assert next(pauses) == 0.5
    assert tries == [], "the first try is no repetition"
    assert [next(pauses) for _ in range(100)][-1] == 3.0
    assert len(tries) == 100
