"""Mixed precision: which layers stay in floating point, so that int8 predicts as the float network does.

The question of HAQ (Wang et al. 2019), answered greedily. Of each layer it is measured how much nearer the
predictions come to the float network's if this layer alone stays in float. In the order of this gain for each
byte that it costs, layers stay in float until both agree on as many images as asked for. Gains are measured
on one half of the calibration images, agreement on the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Quantize
from akgp.quantization.judging import divergences, halves
from akgp.quantization.layers import layers, matching
from akgp.quantization.observing import Floats, log_probabilities
from akgp.quantization.ptq import prepare, quantize
from akgp.quantization.qdq import Qdq

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Layer:
    """A row of the plan.

    Attributes:
        layer: as `quantize.float_layers` takes it.
        precision: of its weights and its sums.
        weights: their number: bytes in int8, a quarter of the bytes in float.
        gain: mean fall of KL(float ‖ int8) with this layer alone in float, nats; None if not measured.
    """

    layer: str
    precision: Literal["int8", "float"]
    weights: int
    gain: float | None = None

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """The precision of each layer, in the order of computation.

    agreement: share of the judging images that int8 classifies as float does; None if none was asked for.
    """

    layers: tuple[Layer, ...]
    agreement: float | None

    @property
    def float_layers(self) -> tuple[str, ...]:
        return tuple(each.layer for each in self.layers if each.precision == "float")


def plan(fp32_path: str | Path, inputs: Tensor | NDArray[np.float32], params: Quantize) -> Plan:
    """The layers that stay in float: those of `params.float_layers`, and what `params.agreement` needs.

    Args:
        fp32_path: as `export_onnx` writes it.
        inputs: float32 [N, C, H, W], normalised calibration images.

    Raises:
        QuantizationError: a pattern of `params.float_layers` matches no layer.
    """
    import onnx

    measuring, judging = halves(inputs)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        prepare(fp32_path, prepared)
        floating = onnx.load(str(prepared))
        names = tuple(matching(floating, params.float_layers))
        trial = _Trial(prepared, floating, inputs, params, Path(folder))
        gains: dict[str, float] = {}
        searched = params.agreement is not None and len(judging) > 0
        agreement = trial.agreement(names, judging) if searched else None
        if params.agreement is not None and agreement is not None and agreement < params.agreement:
            gains = trial.gains(names, measuring)
            for name in _ordered(gains, _weights(floating)):
                names = (*names, name)
                agreement = trial.agreement(names, judging)
                if agreement >= params.agreement:
                    break
    return Plan(
        tuple(
            Layer(name, "float" if name in names else "int8", count, gains.get(name))
            for name, count in _weights(floating).items()
        ),
        agreement,
    )


@dataclass(frozen=True)
class _Trial:
    """Quantizes the prepared float graph with some layers in float; ranges are calibrated once."""

    prepared: Path
    floating: ModelProto
    inputs: Tensor | NDArray[np.float32]
    params: Quantize
    folder: Path

    def model(self, names: Iterable[str]) -> ModelProto:
        import onnx

        file = self.folder / "trial.onnx"
        params = self.params.model_copy(update={"float_layers": tuple(names)})
        quantize(self.prepared, self.inputs, params, file, ranges=self.folder / "ranges.json")
        return onnx.load(str(file))

    def agreement(self, names: Iterable[str], images: Floats) -> float:
        wanted, found = (log_probabilities(each, images) for each in (self.floating, self.model(names)))
        return float((wanted.argmax(1) == found.argmax(1)).mean())

    def gains(self, names: tuple[str, ...], images: Floats) -> dict[str, float]:
        """Of each layer that is still int8."""
        wanted = log_probabilities(self.floating, images)

        def divergence(names: Iterable[str]) -> float:
            return float(divergences(wanted, log_probabilities(self.model(names), images)).mean())

        before = divergence(names)
        others = [name for name in layers(self.floating) if name not in names]
        return {name: before - divergence((*names, name)) for name in others}


def _weights(model: ModelProto) -> dict[str, int]:
    graph = Qdq(model)
    return {name: graph.constant(nodes[0].input[1]).size for name, nodes in layers(model).items()}


def _ordered(gains: dict[str, float], weights: dict[str, int]) -> list[str]:
    """By gain for each weight, the largest first; layers whose gain is noise below 0 come last."""
    return sorted(gains, key=lambda name: -gains[name] / weights[name])
