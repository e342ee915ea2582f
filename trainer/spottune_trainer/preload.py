"""Importing torch, transformers and PEFT in the background, while the store and the data are being checked."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Callable

from spottune_contract.runspec import MethodSpec

_MODULES = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_utils",
    "peft",
)


def preload(method: MethodSpec) -> Callable[[], None]:
    """Start the imports; the returned function waits for their end. The thread environment must be set already.

    An import that fails here fails again, and is reported, where the module is used.
    """
    if method.type == "lora":
        # PEFT imports it if it is installed, which costs seconds and is of no use here; None makes it look absent.
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    # Collecting garbage among a million fresh objects that all stay costs a seventh of the import.
    gc.disable()
    thread = threading.Thread(target=_import_all, name="preload", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        gc.freeze()
        gc.enable()

    return wait


def _import_all() -> None:
    for name in _MODULES:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
