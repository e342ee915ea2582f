"""The programs of the local cluster: found, downloaded or built once per machine, at pinned versions.

In this order: a directory named by `SPOTTUNE_KUBE_ASSETS` or `KUBEBUILDER_ASSETS`, the user's cache, the official release of Kubernetes (checked
against its SHA-256), `go build` of the pinned modules in `localcloud/gomod/`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from localcloud import golang

DIRECTORY_VARIABLES = ("SPOTTUNE_KUBE_ASSETS", "KUBEBUILDER_ASSETS")
KUBERNETES_VERSION = "v1.34.4"
RELEASES = "https://dl.k8s.io/release"
_REACHABLE_SECONDS = 4.0
_HEARTBEAT_SECONDS = 10.0


class AssetError(RuntimeError):
    """A program could be had in none of the ways; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Asset:
    """One program.

    Attributes:
        name: the file's name.
        version: names the cache directory, so that a new pin means a new file.
        module: the folder of `localcloud/gomod/` whose go.mod pins the source.
        package: what `go build` builds.
        stamp: the Go variables that hold the program's version, each with its value.
        released: whether Kubernetes' download site has it.
    """

    name: str
    version: str
    module: str
    package: str
    stamp: tuple[tuple[str, str], ...]
    released: bool = False


def _kubernetes(name: str) -> Asset:
    stamp = (("k8s.io/component-base/version.gitVersion", KUBERNETES_VERSION),)
    return Asset(name, KUBERNETES_VERSION, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", stamp, released=True)


ASSETS: tuple[Asset, ...] = (
    *map(_kubernetes, ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")),
    Asset("etcd", "v3.6.16", "etcd", "go.etcd.io/etcd/server/v3", ()),
    Asset(
        "karpenter",
        "v1.14.0",
        "karpenter",
        "github.com/aws/karpenter-provider-aws/cmd/controller",
        (("sigs.k8s.io/karpenter/pkg/operator.Version", "1.14.0"),),
    ),
    Asset(
        "toxiproxy-server",
        "v2.5.0",
        "toxiproxy",
        "github.com/Shopify/toxiproxy/v2/cmd/server",
        (("github.com/Shopify/toxiproxy/v2.Version", "2.5.0"),),
    ),
    Asset("helm", "v4.3.1", "helm", "helm.sh/helm/v4/cmd/helm", (("helm.sh/helm/v4/internal/version.version", "v4.3.1"),)),
)

_BY_NAME = {asset.name: asset for asset in ASSETS}


def cache_directory() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/spottune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spottune"


def binary(name: str) -> Path:
    """The path of the program `name` (one of `ASSETS`), fetched or built if this machine does not have it yet.

    Raises:
        AssetError: it could be had in none of the ways.
    """
    asset = _BY_NAME[name]
    present = find(asset)
    if present:
        return present
    # One lock per module: two callers that want two programs of one module would otherwise compile the same packages twice.
    with _locked(asset.module):
        return find(asset) or _obtain(asset)


def find(asset: Asset) -> Path | None:
    """Where this machine has the program already; None if it does not."""
    for variable in DIRECTORY_VARIABLES:
        if directory := os.environ.get(variable):
            given = Path(directory) / asset.name
            if os.access(given, os.X_OK):
                return given
    cached = _cached(asset)
    return cached if cached.exists() else None


def fetch_all() -> None:
    """Get every program; prints one line for each. Two modules are built at once: one links, on one core, while the other compiles.

    Raises:
        AssetError: one of them can't be had.
    """
    modules = [list(of_module) for _, of_module in groupby(ASSETS, key=lambda asset: asset.module)]
    with ThreadPoolExecutor(2) as builders:
        for done in [builders.submit(_fetch, assets) for assets in modules]:
            done.result()


def _fetch(assets: Iterable[Asset]) -> None:
    for asset in assets:
        began = time.monotonic()
        known = find(asset)
        path = known or binary(asset.name)
        how = "there" if known else f"{time.monotonic() - began:.0f} s"
        say(f"{asset.name:<24} {asset.version:<9} {how:>8}  {path}")


def say(line: str) -> None:
    """Progress goes to stderr: stdout belongs to the commands."""
    print(line, file=sys.stderr, flush=True)


def _obtain(asset: Asset) -> Path:
    target = _cached(asset)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{asset.name}.{os.getpid()}")
        try:
            if not (asset.released and download(asset.name, asset.version, temporary)):
                _build(asset, temporary)
            temporary.chmod(0o755)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AssetError(
                f"{asset.name}: no space left below {cache_directory()}: free some, or set XDG_CACHE_HOME to a larger disk"
            ) from error
        raise AssetError(f"{asset.name}: cannot write {target}: {error}") from error
    return target


def _build(asset: Asset, target: Path) -> None:
    title = f"building {asset.name} {asset.version} from source"
    try:
        with heartbeat(title):
            golang.build(asset.module, asset.package, dict(asset.stamp), target, cache_directory())
    except golang.BuildError as error:
        raise AssetError(f"{asset.name} {asset.version}: {error}") from error


def download(name: str, version: str, target: Path, releases: str = RELEASES) -> bool:
    """Fetch an official Kubernetes program into `target`; False if the site can't be reached (a refusal costs at most some seconds).

    Raises:
        AssetError: what came does not have the published SHA-256.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    url = f"{releases}/{version}/bin/linux/{machine}/{name}"
    published = _within(_REACHABLE_SECONDS, lambda: _read(f"{url}.sha256"))
    if published is None:
        return False
    digest = hashlib.sha256()
    with heartbeat(f"downloading {name} {version}"):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as file:
                while chunk := answer.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            say(f"downloading {name} failed: {error}")
            return False
    expected = published.decode(errors="replace").split()[0]
    if digest.hexdigest() != expected:
        raise AssetError(
            f"{url}: SHA-256 is {digest.hexdigest()}, published is {expected}: try again, or build it (set SPOTTUNE_KUBE_ASSETS)"
        )
    return True


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_REACHABLE_SECONDS) as answer:
        body: bytes = answer.read(1024)
    return body


def _within(seconds: float, call: Callable[[], bytes]) -> bytes | None:
    """The call's result, or None if it fails or takes longer: name resolution alone can hang for half a minute and takes no time limit."""
    results: queue.Queue[bytes | None] = queue.Queue()

    def attempt() -> None:
        try:
            results.put(call())
        except (OSError, ValueError):
            results.put(None)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        return None


@contextmanager
def heartbeat(title: str) -> Iterator[None]:
    """Say what is being done, every ten seconds for how long, and at the end how long it took."""
    began = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            say(f"  … {title}: {time.monotonic() - began:.0f} s")

    say(f"  {title}")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    directory = cache_directory() / "locks"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / f"{name}.lock").open("w")
    except OSError as error:
        raise AssetError(
            f"the cache {cache_directory()} cannot be written ({error}): set XDG_CACHE_HOME to a directory of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with heartbeat(f"waiting for another process that gets {name}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(asset: Asset) -> Path:
    return cache_directory() / "bin" / f"{asset.name}-{asset.version}" / asset.name


def main() -> int:
    """`python -m localcloud.assets`: every program, with nothing but the standard library, while the rest is still being installed."""
    try:
        fetch_all()
    except AssetError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
