"""How the int8 file will run: what its speed depends on beside the network, by params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from akgp.params import Params, Precision


@dataclass(frozen=True)
class Deployed:
    """Runtime, threads, and the layers that will not be int8, as `quantize.precision` names them."""

    runtime: str = "onnxruntime"
    threads: int = 1
    precision: Mapping[str, Precision] = field(default_factory=dict)

    @classmethod
    def of(cls, params: Params) -> Self:
        return cls(params.deploy.runtime, params.evaluate.threads, params.quantize.precision)


ALONE = Deployed()
"""Without a params.yaml."""
