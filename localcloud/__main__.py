"""`python -m localcloud`: bring the local cluster up, look at it, disturb it, take it down."""

from __future__ import annotations

import argparse
import errno
import fcntl
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcloud import (
    assets,
    controlplane,
    karpenter,
    market,
    moto_server,
    net,
    node,
    objectstore,
    packages,
    preflight,
    process,
    reconciler,
    seed,
)
from localcloud.controlplane import ControlPlane
from localcloud.home import DEFAULT_HOME, HOME_VARIABLE, Home
from localcloud.moto_server import Moto
from localcloud.objectstore import ObjectStore
from localcloud.steps import Step

STEPS: tuple[Step, ...] = (
    net.STEP,
    controlplane.STEP,
    objectstore.STEP,
    moto_server.STEP,
    seed.STEP,
    node.STEP,
    reconciler.STEP,
    karpenter.STEP,
)
"""In the order of `up`; `down` goes the other way."""

_STOPPED = 3
"""Exit code of `status` when something does not run, as systemctl has it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors go to stderr with their remedy, exit code 1."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where it stopped, `down` clears up", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        place = error.filename or arguments.home.root
        print(f"error: no rights on {place}: run it as root (sudo), or name a home of your own by --home", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: no space left on the disk of {error.filename or arguments.home.root}: free some, or name another by --home",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcloud", description="EKS with Karpenter in a box, made of real parts.")
    parser.add_argument(
        "--home",
        type=lambda text: Home(Path(text).absolute()),
        default=Home.default(),
        help=f"where this cluster's state lies; default ${HOME_VARIABLE}, else {DEFAULT_HOME}",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring everything up; what runs already is left alone")
    up.add_argument("--control-plane-only", action="store_true", help="only etcd and Kubernetes' own control plane; needs no root")
    up.add_argument("--address", default="127.0.0.1", help="of the control plane if it comes alone (default: %(default)s)")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="end and remove everything of this home but its logs")
    down.add_argument("--keep", action="store_true", help="keep the cluster's objects and the buckets for the next `up`")
    down.set_defaults(run=_down)
    commands.add_parser("status", help="what runs (exit code 3 if something does not)").set_defaults(run=_status)
    commands.add_parser(
        "env", help='shell lines for kubectl, helm and S3 clients: eval "$(.venv/bin/python -m localcloud env)"'
    ).set_defaults(run=_env)
    kubeconfig = commands.add_parser("kubeconfig", help="path of the administrator's kubeconfig, or one for another identity")
    kubeconfig.add_argument("--user")
    kubeconfig.add_argument("--group", action="append", default=[])
    kubeconfig.set_defaults(run=_kubeconfig)
    commands.add_parser("assets", help="get every program (download or build); shows where each one is").set_defaults(run=_assets)
    debian = commands.add_parser("packages", help="the Debian packages that nodes need")
    debian.add_argument("--install", action="store_true", help="install those that are missing")
    debian.set_defaults(run=_packages)
    node.register(commands)
    market.register(commands)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    began = time.monotonic()
    if arguments.control_plane_only:
        plane = ControlPlane(home, arguments.address)
        with _alone(home):
            plane.up()
        print(f"control plane {plane.server} up after {time.monotonic() - began:.1f} s\nexport KUBECONFIG={plane.kubeconfig}")
        return 0
    preflight.require(home)
    with _alone(home):
        for asset in assets.ASSETS:
            assets.binary(asset.name)
        for step in STEPS:
            start = time.monotonic()
            detail = step.up(home)
            print(f"  {step.name:<22} {time.monotonic() - start:5.1f} s   {detail}", flush=True)
    print(f'up after {time.monotonic() - began:.1f} s; next: eval "$(.venv/bin/python -m localcloud env)"; kubectl get nodes')
    return 0


def _down(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    if not home.root.exists():
        print(f"nothing at {home.root}")
        return 0
    began = time.monotonic()
    failures = []
    with _alone(home):
        _unmount_below(home.root)
        for step in reversed(STEPS):
            try:
                step.down(home)
            except (RuntimeError, OSError) as error:  # the others must still go down
                failures.append(f"{step.name}: {error}")
        process.stop_all(home)
        if not arguments.keep:
            _forget(home)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"down after {time.monotonic() - began:.1f} s; logs are kept in {home.logs}")
    return 1 if failures else 0


def _status(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    if not home.root.exists():
        print(f"nothing at {home.root}: .venv/bin/python -m localcloud up")
        return _STOPPED
    rows = [row for step in STEPS for row in step.status(home)]
    for row in rows:
        print(f"{row.part:<26} {row.state:<9} {row.detail}")
    return _STOPPED if any(row.state == "stopped" for row in rows) else 0


def _env(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    if not home.kubeconfig.exists() or process.find(home, "kube-apiserver") is None:
        raise RuntimeError(f"the cluster of {home.root} is not up: run `make up` (or `.venv/bin/python -m localcloud up`) first")
    store = ObjectStore.of_cluster(home)
    programs = ":".join(str(assets.binary(name).parent) for name in ("kubectl", "helm"))
    values = {
        HOME_VARIABLE: str(home.root),
        "KUBECONFIG": str(home.kubeconfig),
        "AWS_ENDPOINT_URL_S3": store.endpoint,
        "AWS_ENDPOINT_URL_SQS": Moto.of_cluster(home).endpoint,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": objectstore.REGION,
    }
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PATH={shlex.quote(programs)}:"$PATH"')
    return 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    if not home.kubeconfig.exists():
        raise RuntimeError(f"no cluster at {home.root}: bring it up first (`.venv/bin/python -m localcloud up`)")
    plane = ControlPlane.of_cluster(home)
    print(plane.client_config(arguments.user, arguments.group) if arguments.user else plane.kubeconfig)
    return 0


def _assets(_: argparse.Namespace) -> int:
    assets.fetch_all()
    karpenter.crd_files()
    return 0


def _packages(arguments: argparse.Namespace) -> int:
    missing = packages.missing()
    for package in packages.wanted():
        print(f"{package.name:<30} {'missing' if package in missing else 'there':<8} {package.why}")
    if arguments.install and missing:
        began = time.monotonic()
        packages.install(missing)
        print(f"installed {', '.join(package.name for package in missing)} in {time.monotonic() - began:.0f} s")
        return 0
    return 1 if missing else 0


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One `up` or `down` of a home at a time; another one waits."""
    with (home.run / "command.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another `up` or `down` of {home.root}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unmount_below(root: Path) -> None:
    """Before anything is removed: a container's files can be the machine's own, and to remove the home must not reach through a mount.

    Raises:
        RuntimeError: something stays mounted; nothing may be removed then.
    """
    for point in sorted(_mounts_below(root), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    if left := _mounts_below(root):
        raise RuntimeError(f"still mounted: {', '.join(left)}. Unmount it and run `down` again")


def _mounts_below(root: Path) -> list[str]:
    points = (line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if Path(point) != root and Path(point).is_relative_to(root)]


def _forget(home: Home) -> None:
    for entry in home.root.iterdir():
        if entry.name in ("logs", "run"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for entry in home.run.iterdir():
        if not entry.is_dir() and entry.suffix != ".lock":  # somebody may be waiting for it
            entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
