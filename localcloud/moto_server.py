"""EC2, SQS, IAM, STS and EventBridge of the local cloud: moto's server, started with our corrections.

moto keeps everything in memory: a restart forgets instances and queues, so `seed` follows every start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from localcloud.home import HOST_ADDRESS, MOTO_PORT, Home
from localcloud.market import market_path
from localcloud.pools import ACCOUNT
from localcloud.process import Service, find, stop
from localcloud.steps import Row, Step

AMI = "ami-0a1b2c3d4e5f60718"
"""The one machine image of the local cloud."""

AMI_NAME = "spottune-local-node"

SOURCE_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Moto:
    """The AWS API of one home. With port 0 it listens on a free port of the home's choice."""

    home: Home
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def of_cluster(cls, home: Home) -> Moto:
        """The one that nodes on the bridge can reach."""
        return cls(home, HOST_ADDRESS, MOTO_PORT)

    @property
    def endpoint(self) -> str:
        """What goes into `AWS_ENDPOINT_URL`."""
        return f"http://{self.address}:{self.port or self.home.port('moto')}"

    @property
    def service(self) -> Service:
        port = self.endpoint.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "localcloud.moto_server", "--address", self.address, "--port", port]
        command += ["--market", str(market_path(self.home)), "--amis", str(self.home.data("moto") / "amis.json")]
        return Service(self.home, "moto", command, ready=self._answers, ready_timeout=60, stop_timeout=3, cwd=SOURCE_ROOT)

    def up(self) -> None:
        """Starts it unless it runs. Raises `ServiceError`."""
        images = self.home.data("moto") / "amis.json"
        images.write_text(json.dumps([machine_image()]))
        self.service.start()

    def down(self) -> None:
        """Stops it; everything in it is forgotten."""
        self.service.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/moto-api/data.json", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def machine_image() -> dict[str, object]:
    """The machine image in the form of `MOTO_AMIS_PATH` (moto's RegisterImage would lose the architecture)."""
    return {
        "ami_id": AMI,
        "name": AMI_NAME,
        "description": "A node of the SpotTune local cluster",
        "owner_id": ACCOUNT,
        "public": True,
        "virtualization_type": "hvm",
        "architecture": "x86_64",
        "state": "available",
        "creation_date": "2026-01-01T00:00:00.000Z",
        "image_type": "machine",
        "hypervisor": "xen",
        "root_device_type": "ebs",
        "root_device_name": "/dev/xvda",
        "sriov": "simple",
    }


def serve(address: str, port: int, market: Path, images: Path) -> None:
    """Runs the server until SIGTERM."""
    # moto reads these while it is imported.
    os.environ["MOTO_AMIS_PATH"] = str(images)
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    os.environ["MOTO_PORT"] = str(port)
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "spottune-local")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "spottune-local")

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    from localcloud.moto_corrections import apply

    apply(market)
    # Karpenter asks several times a second: only what fails is worth a line.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    application = DomainDispatcherApplication(create_backend_app)
    run_simple(address, port, application, threaded=True, request_handler=MotoRequestHandler)


def _up(home: Home) -> str:
    Moto.of_cluster(home).up()
    return Moto.of_cluster(home).endpoint


def _status(home: Home) -> list[Row]:
    process = find(home, "moto")
    return [Row("moto (EC2, SQS, IAM)", "running" if process else "stopped", Moto.of_cluster(home).endpoint if process else "")]


STEP = Step("moto (EC2, SQS, IAM)", _up, lambda home: stop(home, "moto", 3), _status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--market", type=Path, required=True)
    parser.add_argument("--amis", type=Path, required=True)
    arguments = parser.parse_args()
    serve(arguments.address, arguments.port, arguments.market, arguments.amis)


if __name__ == "__main__":
    main()
