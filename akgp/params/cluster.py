"""ray: where the stages compute."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from akgp.params.base import Address, Section


def _cluster(address: str) -> str:
    """`auto`, or a host and a port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto" and not (host and re.fullmatch(r"[0-9]{1,5}", port) and "://" not in host):
        raise ValueError(f"must be null, auto or host:port, got {address!r}")
    return address


class Ray(Section):
    """Where the stages compute. Not part of what they compute: changing it re-runs nothing."""

    address: Annotated[str, AfterValidator(_cluster)] | None = Field(
        None, description="null: a local Ray, started and stopped; auto or host:port: that cluster"
    )
    workers: Annotated[int, Field(ge=1)] = Field(1, description="data-parallel workers a stage")
    cpus_per_worker: Annotated[int, Field(ge=1)] = Field(
        1, description="CPU cores a worker, and threads; more pay for large networks on an idle machine"
    )
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = Field(0, description="GPUs a worker: 0 or 1")
    min_workers: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="of a cluster: continue with as few while nodes are missing; null: wait for `workers`",
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        3,
        description="of a cluster: how often a stage or trial is resumed by itself after the loss of a node",
    )
    storage: Address = Field("runs", description="checkpoints: a directory or s3:// prefix all nodes reach")

    @model_validator(mode="after")
    def _elastic_on_a_cluster(self) -> Self:
        if self.min_workers is not None and self.address is None:
            raise ValueError("min_workers is for a cluster: it must be null if address is")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most workers ({self.workers})")
        return self

    def counts(self) -> range:
        """The numbers of workers that a training may have."""
        return range(self.min_workers or self.workers, self.workers + 1)
