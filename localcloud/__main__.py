"""`python -m localcloud`: bring the local cluster up, look at it, interrupt its nodes, take it down."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from pathlib import Path

from localcloud import process
from localcloud.assets import AssetError
from localcloud.controlplane import ControlPlane
from localcloud.home import HOME_VARIABLE, Home
from localcloud.steps import Step

_STEPS = ("net", "controlplane", "objectstore", "moto_server", "seed", "images", "node", "reconciler", "karpenter")
"""In the order of `up`; each module has a `STEP`. `down` goes the other way."""
_COMMANDS = ("node", "market", "imds")
"""Modules that add commands of their own by `register(subparsers)`."""


def _modules(names: tuple[str, ...]) -> list[object]:
    present = [name for name in names if importlib.util.find_spec(f"localcloud.{name}")]
    return [importlib.import_module(f"localcloud.{name}") for name in present]


def steps() -> list[Step]:
    return [module.STEP for module in _modules(_STEPS) if hasattr(module, "STEP")]


def _up(arguments: argparse.Namespace) -> int:
    home: Home = arguments.home
    begin = time.monotonic()
    if arguments.control_plane_only:
        plane = ControlPlane(home, arguments.address)
        plane.up()
        print(f"control plane {plane.server} up after {time.monotonic() - begin:.1f} s\nexport KUBECONFIG={plane.kubeconfig}")
        return 0
    for step in steps():
        start = time.monotonic()
        print(f"{step.name:<24}", end="", flush=True)
        detail = step.up(home)
        print(f"{time.monotonic() - start:6.1f} s  {detail}", flush=True)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    for step in reversed(steps()):
        step.down(arguments.home)
    process.stop_all(arguments.home)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m localcloud", description=__doc__)
    parser.add_argument(
        "--home", type=lambda text: Home(Path(text).absolute()), default=Home.default(), help=f"default: ${HOME_VARIABLE} or %(default)s"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring everything up (again)")
    up.add_argument("--control-plane-only", action="store_true")
    up.add_argument("--address", default="127.0.0.1")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="take everything down")
    down.set_defaults(run=_down)
    for module in _modules(_COMMANDS):
        if hasattr(module, "register"):
            module.register(commands)
    arguments = parser.parse_args()
    try:
        return int(arguments.run(arguments))
    except (process.ServiceError, AssetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
