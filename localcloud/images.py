"""Tiny local images: their file system is the host's, bind-mounted read-only, so a node boots without copying gigabytes of torch.

Each image holds a few links and `/etc/passwd`; `host_mounts()` (containerd's base specification) adds the host's /usr, this Python, its virtual
environment and the repository's source roots. Pods run in it as any user, with a read-only root. Images made from the
repository's Dockerfiles run on nodes with `real_images=True`, which mount nothing of the host.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud import oci

REGISTRY = "spottune.local"
"""No such host: a kubelet that wants to pull from it fails at once."""
PAUSE = f"{REGISTRY}/pause:dev"
USER = 65532
"""Distroless' `nonroot`, the user of the real images too."""

_PRODUCT = Path("/opt/spottune")
"""Where images have the product. Not where this machine has it: a pod's own volumes, such as the one at /tmp, must not hide it."""
_VENV, _SOURCES = _PRODUCT / "venv", _PRODUCT / "src"
_REPOSITORY = Path(__file__).resolve().parent.parent
_SOURCE_ROOTS = ("contract", "operator", "trainer", "agent", "cli")
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FROM_ETC = (
    "alternatives",
    "ca-certificates",
    "ssl",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "protocols",
    "services",
)
_PASSED_ON = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Facts of this machine's processor. Few, and inherited by every service of ours: the image must be the same whoever adds the node."""
_PASSWD = f"root:x:0:0:root:/root:/usr/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/tmp:/usr/sbin/nologin\n"
_GROUP = f"root:x:0:\nnonroot:x:{USER}:\n"


@dataclass(frozen=True)
class Image:
    """One local image: `module` is what its Python runs; none for a plain one."""

    name: str
    module: str

    @property
    def reference(self) -> str:
        return f"{REGISTRY}/{self.name}:dev"


IMAGES = (Image("operator", "spottune_operator"), Image("trainer", "spottune_trainer"), Image("agent", "spottune_agent"))


def host_paths() -> tuple[Path, ...]:
    """What of the host local images need at its own path: system libraries and this Python."""
    wanted = [Path("/usr")]
    wanted += [Path("/") / name for name in _TOP_LEVEL if (Path("/") / name).is_dir() and not (Path("/") / name).is_symlink()]
    wanted += [Path("/etc") / name for name in _FROM_ETC if (Path("/etc") / name).exists()]
    wanted += [Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent]
    chosen: list[Path] = []
    for path in sorted(set(wanted), key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
    return tuple(chosen)


def host_mounts() -> list[dict[str, Any]]:
    """The read-only bind mounts of an OCI runtime specification: `host_paths()`, and the product below `_PRODUCT`."""
    product = {_VENV: Path(sys.prefix)} | {_SOURCES / root: _REPOSITORY / root for root in _SOURCE_ROOTS}
    places = {path: path for path in host_paths()} | product
    options = ["rbind", "ro", "nosuid", "nodev"]
    return [{"destination": str(place), "type": "bind", "source": str(path), "options": options} for place, path in places.items()]


def build(target: Path) -> Path:
    """Write all local images into one OCI archive for `ctr images import`; the same host gives the same bytes.

    Raises:
        FileNotFoundError: `catatonit`, whose static binary is the pause program, is not installed.
    """
    pause = shutil.which("catatonit")
    if pause is None:
        raise FileNotFoundError("catatonit is not installed: apt-get install catatonit (all of localcloud/packages.txt)")
    layout = oci.Layout()
    layout.add(
        PAUSE, oci.layer({}, executables={"pause": Path(pause).read_bytes()}), {"Entrypoint": ["/pause", "-P"], "User": f"{USER}:{USER}"}
    )
    links = {name: os.readlink(f"/{name}") for name in _TOP_LEVEL if os.path.islink(f"/{name}")}
    files = {"etc/passwd": _PASSWD.encode(), "etc/group": _GROUP.encode(), "etc/nsswitch.conf": b"hosts: files dns\n"}
    layer = oci.layer(files, links=links)
    for image in IMAGES:
        layout.add(image.reference, layer, _configuration(image))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")  # nodes may boot side by side
    layout.write(temporary)
    temporary.replace(target)
    return target


def load(socket: Path, archive: Path) -> None:
    """Import an archive (OCI or `docker save`) into the containerd behind `socket`, where kubelets see it.

    Raises:
        RuntimeError: containerd refused it.
    """
    command = ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"import of {archive} failed: {done.stderr.strip()}")


def _configuration(image: Image) -> dict[str, Any]:
    python = _VENV / "bin" / "python"
    path = f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = ":".join(str(_SOURCES / root) for root in _SOURCE_ROOTS)
    environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        "User": f"{USER}:{USER}",
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Entrypoint": [str(python), "-m", image.module],
        "WorkingDir": "/",
    }
