"""The environment of a trainer pod: written by the operator, read by the trainer, nowhere else spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spottune_contract.labels import TRAINER_PORT
from spottune_contract.layout import S3Location, job_location
from spottune_contract.runspec import RunSpec
from spottune_contract.version import CONTRACT_VERSION, check_contract

PREFIX = "SPOTTUNE_"
CREDENTIALS_DIR = "/var/run/secrets/spottune/storage"
"""Where the operator mounts `checkpoint.credentialsSecret`: files `accessKeyId` and `secretAccessKey`."""
SCRATCH_DIR = "/scratch"
"""Writable emptyDir of the pod; everything else is read-only."""
TERMINATION_PATH = "/dev/termination-log"
POD_UID_VARIABLE, NODE_VARIABLE = PREFIX + "POD_UID", PREFIX + "NODE"
"""These two come from the downward API; the operator cannot know them when it writes the manifest."""


class BadEnvironment(ValueError):
    """A variable is missing or wrong; the message names it."""


class RunEnv(BaseModel):
    """One attempt, as the operator hands it to the trainer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contract: str = CONTRACT_VERSION
    cluster: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    namespace: str
    job: str
    job_uid: str
    epoch: int = Field(ge=1)
    rank: int = Field(default=0, ge=0)
    world_size: int = Field(default=1, ge=1)
    min_slot: int = Field(default=0, ge=0)
    """Slots that the log must have at least: one more than the highest the operator ever heard of."""
    handover: Literal["Cold", "Warm"] = "Cold"
    """Warm: leave a mark at the end (`layout.left_key`), because a successor may be waiting for it."""
    predecessor: int = Field(default=0, ge=0)
    """Attempt that may still commit: the claim waits until it has left. 0 for none."""
    predecessor_until: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Wall clock seconds at which its time is up: it is waited for no longer."""
    image_digest: str = ""
    pod_uid: str = ""
    node: str = ""
    grace_seconds: int = Field(default=100, ge=1)
    port: int = Field(default=TRAINER_PORT, ge=0, le=65535)
    credentials_dir: str = ""
    """Folder with `accessKeyId` and `secretAccessKey`; empty: the default credential chain."""
    scratch_dir: str = SCRATCH_DIR
    termination_path: str = TERMINATION_PATH
    log_level: str = "info"
    run_spec: RunSpec

    @property
    def location(self) -> S3Location:
        """Root of this job's objects."""
        return job_location(self.run_spec.checkpoint.storage, self.cluster, self.namespace, self.job_uid)

    def to_environ(self) -> dict[str, str]:
        """As environment variables, pod UID and node left out (the downward API fills them in)."""
        environ = {}
        for name in type(self).model_fields:
            if name == "run_spec":
                environ[_variable(name)] = self.run_spec.model_dump_json(by_alias=True)
            elif name not in ("pod_uid", "node"):
                environ[_variable(name)] = str(getattr(self, name))
        return environ

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RunEnv:
        """Read it back. Raises `IncompatibleContract` before anything else, then `BadEnvironment` naming every variable."""
        check_contract(environ.get(_variable("contract"), ""))
        values: dict[str, object] = {n: environ[_variable(n)] for n in cls.model_fields if n != "run_spec" and _variable(n) in environ}
        try:
            values["run_spec"] = RunSpec.model_validate_json(environ.get(_variable("run_spec"), "null"))
            return cls.model_validate(values)
        except ValidationError as error:
            details = "; ".join(
                f"{'.'.join(str(p) for p in item['loc']) or 'run_spec'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
            )
            raise BadEnvironment(f"the pod's environment ({PREFIX}*) is not usable: {details}") from None


def _variable(field: str) -> str:
    return PREFIX + field.upper()
