"""Programs are found, downloaded or built once, and never half."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localcloud import assets, golang
from localcloud.assets import ASSETS, Asset, AssetError, binary, download


class Site(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}  # noqa: RUF012  (filled by the fixture)

    def do_GET(self) -> None:
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A download site on the loopback address and its files."""
    Site.files = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", Site.files
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no directory of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in assets.DIRECTORY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache" / "spottune"


def path_on_site(name: str) -> str:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    return f"/v1/bin/linux/{machine}/{name}"


def test_a_directory_of_the_users_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "etcd").write_text("#!/bin/sh\n")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(own))
    cached = cache / "bin" / "etcd-v3.6.16" / "etcd"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert binary("etcd") == cached, "what can't be executed does not count"
    (own / "etcd").chmod(0o755)
    assert binary("etcd") == own / "etcd"


def test_a_download_is_checked_against_the_published_digest(site: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, files = site
    body = os.urandom(3_000_000)
    files[path_on_site("kubectl")] = body
    files[path_on_site("kubectl") + ".sha256"] = hashlib.sha256(body).hexdigest().encode() + b"\n"
    assert download("kubectl", "v1", tmp_path / "kubectl", address)
    assert (tmp_path / "kubectl").read_bytes() == body
    files[path_on_site("kubectl")] = body[:-1]
    with pytest.raises(AssetError, match="SHA-256"):
        download("kubectl", "v1", tmp_path / "kubectl", address)


def test_a_site_that_refuses_or_has_no_such_file_means_build(site: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    assert not download("kubectl", "v1", tmp_path / "kubectl", site[0])
    assert not download("kubectl", "v1", tmp_path / "kubectl", "http://127.0.0.1:1")
    assert not (tmp_path / "kubectl").exists()


def test_callers_at_the_same_time_build_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds: list[str] = []

    def build(module: str, package: str, stamp: object, target: Path, directory: Path) -> None:
        builds.append(package)
        target.write_text("program")

    monkeypatch.setattr(golang, "build", build)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: binary("etcd"), range(4)))
    assert len(builds) == 1
    assert paths == {cache / "bin" / "etcd-v3.6.16" / "etcd"}
    assert [entry.name for entry in (cache / "bin" / "etcd-v3.6.16").iterdir()] == ["etcd"], "no temporary file stays"


def test_a_failed_build_shows_the_end_of_what_go_said_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "modules" / "etcd"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module broken\n\ngo 1.25.0\n")
    (module / "main.go").write_text("package main\n\nfunc main() { thisIsNoGo() }\n")
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text('#!/bin/sh\n[ "$1" = env ] && { echo /tmp; exit; }\necho "main.go:3: undefined: thisIsNoGo"; exit 1\n')
    go.chmod(0o755)
    monkeypatch.setattr(golang, "_MODULES", tmp_path / "modules")
    monkeypatch.setattr(golang, "toolchain", lambda cache: go)
    with pytest.raises(AssetError, match=r"etcd v3\.6\.16.*\n.*undefined: thisIsNoGo"):
        binary("etcd")
    assert list((cache / "bin" / "etcd-v3.6.16").iterdir()) == []


def test_a_build_does_not_begin_on_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(golang.BuildError, match="GB free, a build from source needs"):
        golang.require_space(tmp_path / "not" / "yet", gigabytes=1e9)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="XDG_CACHE_HOME"):
        binary("etcd")


@pytest.mark.parametrize(
    ("version", "suits"), [("go1.26.8", True), ("go1.26.4", False), ("go1.25.9", False), ("go1.27.1", False), ("devel", False)]
)
def test_only_a_go_of_the_tested_minor_version_is_used(version: str, suits: bool) -> None:
    assert golang._suits(version) is suits


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.name)
def test_every_version_is_the_one_its_module_pins(asset: Asset) -> None:
    text = (Path(golang.__file__).parent / "gomod" / asset.module / "go.mod").read_text()
    pins = dict(re.findall(r"^(?:require )?\s*(\S+) (v\S+)", text, re.MULTILINE))
    source = max((module for module in pins if asset.package.startswith(module)), key=len)
    assert pins[source] == asset.version
    assert f"{asset.package}" in text, "the go.mod names the program as a tool"


def test_the_lock_files_have_a_hash_for_every_pin() -> None:
    folder = Path(golang.__file__).parent / "gomod"
    for module in {asset.module for asset in ASSETS}:
        pinned = re.findall(r"^(?:require )?\s+(\S+) (v\S+)(?: //.*)?$", (folder / module / "go.mod").read_text(), re.MULTILINE)
        sums = (folder / module / "go.sum").read_text()
        assert pinned
        for name, version in pinned:
            if not name.startswith("k8s.io/") or version != "v0.0.0":
                assert f"{name} {version}/go.mod h1:" in sums, f"{module}: {name} {version}"


def test_the_programs_of_this_machine_say_their_pinned_version() -> None:
    """Only those that are here already: a unit test builds nothing."""
    for asset in ASSETS:
        path = assets.find(asset)
        if path and asset.module == "kubernetes":
            arguments = ["version", "--client"] if asset.name == "kubectl" else ["--version"]
            assert asset.version in subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout
