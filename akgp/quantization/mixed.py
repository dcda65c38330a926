"""Mixed precision: of each layer whether it is int8, stays in float, or has weights of 4 bits.

A plan has what `params.precision` says, and what the budgets add by sensitivity on calibration images:
`float_layers` for better predictions or a shorter time, `four_bits` for a smaller download.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Precision, Quantize
from akgp.quantization.float_layers import Alone, with_floats
from akgp.quantization.four_bits import with_four_bits
from akgp.quantization.trials import Measures, Table, Trials


@dataclass(frozen=True)
class Layer:
    """A row of the plan.

    Attributes:
        layer: as `quantize.precision` takes it.
        precision: of its weights and its sums.
        weights: their number: bytes in int8, a quarter of the bytes in float.
        gain: mean fall of KL(float ‖ int8) with this layer alone in float, nats; None if not measured.
        ms: that an image takes longer with it alone in float, below 0 if float is faster; likewise.
        loss: mean rise of KL(float ‖ int8) with this layer alone in 4 bits, nats; likewise.
    """

    layer: str
    precision: Precision
    weights: int
    gain: float | None = None
    ms: float | None = None
    loss: float | None = None

    def as_row(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        said = [f"{self.weights:,} weights"]
        if self.gain is not None:
            said.append(f"float gains {self.gain:.2g} nats")
        if self.ms is not None:
            said.append(f"takes {self.ms:+.3f} ms")
        if self.loss is not None:
            said.append(f"int4 loses {self.loss:.2g} nats")
        return f"{json.dumps(self.layer)}: {self.precision}  # {', '.join(said)}"


@dataclass(frozen=True)
class Plan:
    """The precision of each layer, in the order of computation.

    agreement: share of the judging images that it classifies as float does; None without a budget.
    """

    layers: tuple[Layer, ...]
    agreement: float | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Plan:
        """The plan that `as_record` has described."""
        return cls(tuple(Layer(**row) for row in record["layers"]), record["agreement"])

    def as_record(self) -> dict[str, Any]:
        """Its plain values."""
        return {"layers": [each.as_row() for each in self.layers], "agreement": self.agreement}

    @property
    def precision(self) -> dict[str, Precision]:
        return {each.layer: each.precision for each in self.layers}

    def count(self, precision: Precision) -> int:
        return sum(each.precision == precision for each in self.layers)

    def as_yaml(self) -> str:
        """As a part of params.yaml, to be edited."""
        return "\n".join(["quantize:", "  precision:", *(f"    {each}" for each in self.layers), ""])


def plan(
    fp32_path: str | Path,
    inputs: Tensor | NDArray[np.float32],
    params: Quantize,
    measures: Measures | None = None,
) -> Plan:
    """What `params.precision` says of each layer, and what the budgets of `params` need.

    Args:
        fp32_path: as `export_onnx` writes it.
        inputs: float32 [N, C, H, W], normalised calibration images.
        measures: needed for budgets of bytes, of time and for the download.

    Raises:
        QuantizationError: a pattern of `params.precision` matches no layer, or a budget cannot be met.
    """
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(fp32_path, inputs, params, measures, Path(folder))
        table: Table = trials.named
        agreement, alone, losses = None, dict[str, Alone](), dict[str, float]()
        if params.seeks_floats:
            table, measured, alone = with_floats(trials, table, params)
            agreement = measured.agreement
        if params.download is not None:
            table, losses = with_four_bits(trials, table, params.download)
            agreement = trials.agreement(trials.quantize(table))
        rows = (
            Layer(name, table.get(name, "int8"), weights, loss=losses.get(name))
            for name, weights in trials.weights.items()
        )
        layers = (replace(row, **vars(alone[row.layer])) if row.layer in alone else row for row in rows)
        return Plan(tuple(layers), agreement)


def agreement(
    fp32_path: str | Path, inputs: Tensor | NDArray[np.float32], params: Quantize, int8_path: str | Path
) -> float:
    """Share of the calibration images that judge a plan which an int8 graph classifies as float does."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(fp32_path, inputs, params, None, Path(folder))
        return trials.agreement(onnx.load(str(int8_path)))
