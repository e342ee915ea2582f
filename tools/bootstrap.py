"""Make a fresh machine ready: system packages, `.venv` from pinned requirements, Kubernetes binaries.

Runs on the system's Python with nothing but the standard library. Every step says how long it took; what is there already is
not done again. `--python-only` stops after `.venv`; `--lock` pins the requirements again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from localcloud import packages  # noqa: E402  (needs nothing but the standard library, as everything here)

VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"
STAMP = VENV / "installed.sha256"
LOCKS = {
    # output file -> arguments of `uv pip compile`
    "setup.txt": ["requirements/setup.in"],
    "go.txt": ["requirements/go.in"],
    "dev.txt": ["pyproject.toml", "--extra", "dev"],
    # The images: the versions of dev.txt, so that what is shipped is what was tested.
    "operator.txt": ["pyproject.toml", "--extra", "operator", "--constraint", "requirements/dev.txt"],
    "trainer.txt": ["pyproject.toml", "--extra", "trainer", "--constraint", "requirements/dev.txt"],
    "agent.txt": ["pyproject.toml", "--constraint", "requirements/dev.txt"],
}


class SetupError(RuntimeError):
    """Something the machine lacks; the message names it and the remedy."""


def step(title: str, action: Callable[[], str | None]) -> None:
    """Run one step with a heartbeat every ten seconds and its elapsed time at the end."""
    started = time.monotonic()
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(10):
            print(f"    … {title}: {time.monotonic() - started:.0f} s", flush=True)

    threading.Thread(target=heartbeat, daemon=True).start()
    try:
        result = action()
    finally:
        done.set()
    print(f"  ✓ {title}: {result or 'done'} ({time.monotonic() - started:.1f} s)", flush=True)


def run(*argv: str) -> None:
    """Run a command quietly; on failure raise `SetupError` with the end of what it said."""
    process = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if process.returncode:
        tail = "\n".join(process.stdout.strip().splitlines()[-15:])
        raise SetupError(f"`{' '.join(argv)}` ended with {process.returncode}:\n{tail}")


def requirements_digest() -> str:
    digest = hashlib.sha256()
    for path in (REQUIREMENTS / "setup.txt", REQUIREMENTS / "dev.txt", ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv() -> str:
    """An empty `.venv`, with pip."""
    if VENV_PYTHON.exists() and subprocess.run([str(VENV_PYTHON), "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return "there already"
    if importlib.util.find_spec("ensurepip") is None:
        packages.install([packages.Package(f"python{sys.version_info.major}.{sys.version_info.minor}-venv", "makes .venv")])
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", str(VENV))
    return "made"


def python_packages() -> str:
    """Exactly the pinned packages, and the project itself, editable."""
    wanted = requirements_digest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return "there already"
    run(str(VENV_PYTHON), "-m", "pip", "install", "-q", "--require-hashes", "-r", "requirements/setup.txt")
    # Compiled now, because pods mount .venv read-only: without it each trainer would compile torch and transformers again.
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "-q", "--compile-bytecode", "--python", str(VENV_PYTHON)]
    run(*uv, "--require-hashes", "-r", "requirements/dev.txt")
    run(*uv, "--no-deps", "--no-build-isolation", "-e", ".")
    STAMP.write_text(wanted)
    return "installed"


def system_packages() -> str:
    """The Debian packages of `localcloud/packages.txt`, each with the reason why it is needed."""
    missing = packages.missing()
    for package in missing:
        print(f"    {package.name}: {package.why}")
    packages.install(missing)
    return f"installed {len(missing)}" if missing else "there already"


def kubernetes_binaries() -> str:
    """Everything that `localcloud.assets` knows; its own progress goes to the screen."""
    process = subprocess.run([str(VENV_PYTHON), "-m", "localcloud.assets"], cwd=ROOT)
    if process.returncode:
        raise SetupError("the Kubernetes binaries could not be had; the lines above say why")
    return "there"


def lock() -> None:
    """Pin every requirements file again: hashes, no addresses."""
    uv = shutil.which("uv") or str(VENV / "bin" / "uv")
    for output, source in LOCKS.items():
        compile_ = ["pip", "compile", *source, "--universal", "--python-version", "3.11", "--generate-hashes", "--upgrade", "-q"]
        run(uv, *compile_, "--custom-compile-command", "make lock", "-o", f"requirements/{output}")
        print(f"  ✓ requirements/{output}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-only", action="store_true", help="only .venv")
    parser.add_argument("--lock", action="store_true", help="pin the requirements again and stop")
    options = parser.parse_args()
    try:
        if sys.version_info < (3, 11):  # noqa: UP036  (this script runs on whatever Python the machine has)
            raise SetupError(
                f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; give another one: make PYTHON=python3.12 …"
            )
        if options.lock:
            lock()
            return 0
        if not options.python_only:
            step("system packages", system_packages)
        step(".venv", make_venv)
        together: list[tuple[str, Callable[[], str | None]]] = [("Python packages", python_packages)]
        if not options.python_only:
            together.append(("Kubernetes binaries", kubernetes_binaries))
        # One mostly downloads, the other mostly compiles.
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(step, title, action) for title, action in together]:
                done.result()
    except (SetupError, packages.PackageError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
