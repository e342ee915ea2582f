"""The compute class: everything of machine and software that decides the bits of a result, readable and comparable.

It is part of the CLAIM, which is made before torch is imported; so it is read from the system. `configure` then makes torch
behave as the class says.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from spottune_trainer.errors import Transient

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "numpy")
UNKNOWN = "unknown"
# What oneDNN, MKL and ATen choose their kernels by; other flags change no bits.
_ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)


def set_thread_environment(environ: MutableMapping[str, str], threads: int, scratch: str) -> None:
    """What must be in the environment before torch is imported. Threads come from the job, never from the machine."""
    environ.update(
        {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_DYNAMIC": "FALSE",
            "MKL_DYNAMIC": "FALSE",
            "OMP_WAIT_POLICY": "PASSIVE",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HOME": str(Path(scratch) / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
    )


def versions() -> dict[str, str]:
    """Versions of the libraries that compute, without importing them."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def compute_class(*, threads: int, world_size: int, micro_batch_size: int, image_digest: str) -> str:
    """`name=value` pairs, separated by `; `."""
    pairs = {
        "accelerator": accelerator(),
        "threads": str(threads),
        "world": str(world_size),
        "microBatch": str(micro_batch_size),
        "image": image_digest or UNKNOWN,
        **versions(),
    }
    return "; ".join(f"{name}={value}" for name, value in pairs.items())


def accelerator(proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> str:
    """GPU model and driver, or CPU family and instruction sets. A GPU counts if its device node is here and torch can use it."""
    if _torch_has_cuda() and any(re.fullmatch(r"nvidia\d+", entry.name) for entry in dev.iterdir()):
        return gpu(proc)
    return cpu((proc / "cpuinfo").read_text())


def gpu(proc: Path) -> str:
    """From the driver's own files, for example `NVIDIA-H100-80GB-HBM3 driver-550.54.15`."""
    driver = proc / "driver" / "nvidia"
    models = sorted(
        {
            match[1].strip().replace(" ", "-")
            for path in driver.glob("gpus/*/information")
            if (match := re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE))
        }
    )
    version = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", (driver / "version").read_text()) if (driver / "version").exists() else None
    return f"{'+'.join(models) or 'NVIDIA'} driver-{version[1] if version else 'unknown'}"


def cpu(cpuinfo: str) -> str:
    """For example `AuthenticAMD-25-17 avx2+fma+avx512f`. Vendor and model count: libraries choose kernels by them too."""
    fields: dict[str, str] = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", cpuinfo.partition("\n\n")[0], re.MULTILINE))
    names = ("vendor_id", "cpu family", "model") if "vendor_id" in fields else ("CPU implementer", "CPU part")
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return f"{'-'.join(fields.get(name, '?') for name in names)} {'+'.join(flag for flag in _ISA_FLAGS if flag in flags) or 'baseline'}"


def _torch_has_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda[^=]*= *'", text, re.MULTILINE) is not None


def configure(stated: str, threads: int) -> Any:
    """Make torch deterministic with `threads` threads; returns the device. Raises `Transient` if the stated GPU cannot be used."""
    import torch

    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    expected_gpu = "driver-" in stated
    if expected_gpu != torch.cuda.is_available():
        raise Transient(
            "AcceleratorUnusable",
            f"the machine says {stated!r}, but torch {'cannot use a GPU' if expected_gpu else 'finds a GPU'}: check the driver",
        )
    if not expected_gpu:
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = False
    # The memory-efficient kernel has no deterministic backward pass.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda", 0)
