"""kopf as a mere trigger: it keeps nothing in objects, and does not compare them."""

from __future__ import annotations

import kopf

from spottune_operator.handlers import configure


def test_kopf_neither_compares_objects_nor_writes_into_them() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    body = kopf.Body({"metadata": {"name": "a", "annotations": {"b": "c"}}, "spec": {"x": 1}})
    patch = kopf.Patch(body=body)
    differences, progress = settings.persistence.diffbase_storage, settings.persistence.progress_storage
    essence = differences.build(body=body)
    assert (essence, differences.fetch(body=body), progress.clear(essence=essence)) == ({}, None, {})
    differences.store(body=body, patch=patch, essence=essence)
    progress.touch(body=body, patch=patch, value="now")
    assert not patch
