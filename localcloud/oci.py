"""Container images as OCI archives, made with the standard library: the same content gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def layer(files: Mapping[str, bytes], *, executables: Mapping[str, bytes] | None = None, links: Mapping[str, str] | None = None) -> bytes:
    """One layer as a tar archive, owned by root, with the folders that it needs and a /tmp; paths without a leading slash."""
    programs = executables or {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = {str(parent) for name in [*files, *programs] for parent in Path(name).parents if str(parent) != "."} | {"tmp"}
        for folder in sorted(folders):
            _entry(tar, folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755)
        for name, content in files.items():
            _entry(tar, name, tarfile.REGTYPE, 0o644, content)
        for name, content in programs.items():
            _entry(tar, name, tarfile.REGTYPE, 0o755, content)
        for name, target in (links or {}).items():
            _entry(tar, name, tarfile.SYMTYPE, 0o777, link=target)
    return buffer.getvalue()


def _entry(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    tar.addfile(entry, io.BytesIO(content))


class Layout:
    """An OCI image layout in the making: blobs by digest, and an index that names the images."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._index: list[dict[str, Any]] = []

    def add(self, reference: str, content: bytes, configuration: Mapping[str, Any]) -> None:
        """Add an image of one layer under the name `reference` (with its tag), with an OCI image configuration (`User`, `Env`, `Entrypoint` …)."""
        compressed = gzip.compress(content, 6, mtime=0)
        config = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": configuration,
            "rootfs": {"type": "layers", "diff_ids": [_digest(content)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._blob(_json(config), "application/vnd.oci.image.config.v1+json"),
            "layers": [self._blob(compressed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
        descriptor = self._blob(_json(manifest), "application/vnd.oci.image.manifest.v1+json")
        tag = reference.rpartition(":")[2]
        self._index.append(descriptor | {"annotations": {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}})

    def write(self, path: Path) -> None:
        """Write the archive that `ctr images import` reads."""
        files = {f"blobs/sha256/{digest.removeprefix('sha256:')}": blob for digest, blob in self._blobs.items()}
        files["index.json"] = _json({"schemaVersion": 2, "manifests": self._index})
        files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(files):
                _entry(tar, name, tarfile.REGTYPE, 0o644, files[name])

    def _blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = _digest(content)
        self._blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _json(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
