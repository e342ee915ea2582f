"""Model and data, brought to this machine and checked before torch is imported: a bad source costs seconds, not a model load."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spottune_contract.runspec import DatasetSpec, ModelSpec
from spottune_trainer.errors import BadConfig, BadData, Transient
from spottune_trainer.model import check_model_dir, fingerprint
from spottune_trainer.objects import Objects, SourceMissing, SourceUnusable
from spottune_trainer.rows import Rows, read_rows

_MODEL_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(json|safetensors|jinja|model|txt)")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class Sources:
    model_dir: Path
    model_fingerprint: str
    rows: Rows
    eval_rows: Rows | None


def locate(model: ModelSpec, dataset: DatasetSpec, *, scratch: Path, objects: Callable[[], Objects]) -> Sources:
    """Find, download and check everything. Raises `BadConfig` (model), `BadData` (data) or an error of the store."""
    rows = _rows(dataset.source, "train", dataset, scratch, objects)
    eval_rows = _rows(dataset.eval_source, "eval", dataset, scratch, objects) if dataset.eval_source else None
    folder = _model(model, scratch, objects)
    check_model_dir(folder, model.source)
    return Sources(folder, fingerprint(folder), rows, eval_rows)


def _rows(source: str, name: str, dataset: DatasetSpec, scratch: Path, objects: Callable[[], Objects]) -> Rows:
    path = Path(source)
    if source.startswith("s3://"):
        path = scratch / "data" / f"{name}.jsonl"
        try:
            objects().download(source, path)
        except (SourceMissing, SourceUnusable) as error:
            raise BadData("DatasetNotFound" if isinstance(error, SourceMissing) else error.reason, f"dataset source: {error}") from None
    elif not path.is_file():
        raise BadData(
            "DatasetNotFound",
            f"dataset source {source}: no such file: give the path of a .jsonl file in the trainer image, or s3://BUCKET/KEY",
        )
    return read_rows(path, dataset.format, source)


def _model(model: ModelSpec, scratch: Path, objects: Callable[[], Objects]) -> Path:
    if model.source.startswith("s3://"):
        target = scratch / "model"
        try:
            objects().download_prefix(model.source, target, wanted=lambda name: _MODEL_FILE.fullmatch(name) is not None)
        except (SourceMissing, SourceUnusable) as error:
            raise BadConfig("ModelNotFound" if isinstance(error, SourceMissing) else error.reason, f"model.source: {error}") from None
        return target
    if model.source.startswith("hf://"):
        return _from_hub(model)
    return Path(model.source)


def _from_hub(model: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(model.source.removeprefix("hf://"), revision=model.revision, allow_patterns=_HUB_PATTERNS))
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise BadConfig(
            "ModelNotFound", f"model.source {model.source} at {model.revision}: {type(error).__name__}: check name, revision and access"
        ) from None
    except (OSError, ValueError) as error:
        raise Transient(
            "HubUnavailable", f"model.source {model.source}: the hub did not answer ({type(error).__name__}): will be tried again"
        ) from None
