"""Int8 graphs of one network that differ in the precision of its layers, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Precision, Quantize
from akgp.quantization.checking import QuantizationError
from akgp.quantization.judging import divergences, halves
from akgp.quantization.layers import layers, precisions
from akgp.quantization.observing import log_probabilities
from akgp.quantization.ptq import prepare, quantize
from akgp.quantization.qdq import Qdq

if TYPE_CHECKING:
    from onnx import ModelProto

Table = Mapping[str, Precision]
"""The precision of layers by name; others are int8."""


@dataclass(frozen=True)
class Measures:
    """What only the code that deploys a file can say of one.

    Attributes:
        bytes: of the file as it will be deployed.
        packed: of the same for the download.
        milliseconds: of each file for one image, timed against each other.
    """

    bytes: Callable[[Path], int]
    packed: Callable[[Path], int]
    milliseconds: Callable[[Sequence[Path]], list[float]]


@dataclass(frozen=True)
class TrialMeasurement:
    """A graph: what it agrees with float on, and what it takes; None: no budget asks for it."""

    agreement: float
    bytes: int | None
    ms: float | None


class Trials:
    """Quantizes a float graph by one table after another; activation ranges are calibrated once.

    Half of the images measure what a layer's precision changes, the other half judge whole plans.

    Attributes:
        floating: the float graph.
        weights: their number, by layer.
        named: the precision of the layers that `params.precision` names.
        file: the graph that was quantized last.
    """

    def __init__(
        self,
        fp32_path: str | Path,
        inputs: Tensor | NDArray[np.float32],
        params: Quantize,
        measures: Measures | None,
        folder: Path,
    ) -> None:
        """Prepare; `folder` receives the files.

        Raises:
            QuantizationError: a pattern of `params.precision` matches no layer, or there is one image alone.
        """
        import onnx

        self._prepared, self._ranges = folder / "prepared.onnx", folder / "ranges.json"
        self._int8, self.file = folder / "int8.onnx", folder / "trial.onnx"
        self._inputs, self._params, self._measures = inputs, params, measures
        self.measuring, self.judging = halves(inputs)
        if (params.seeks_floats or params.download) and not len(self.judging):
            raise QuantizationError(
                "quantize: agreement, bytes, latency_ms and download need two calibration images or more"
            )
        prepare(fp32_path, self._prepared)
        self.floating = onnx.load(str(self._prepared))
        self.named = precisions(self.floating, params.precision)
        graph = Qdq(self.floating)
        self.weights = {
            name: graph.constant(nodes[0].input[1]).size for name, nodes in layers(self.floating).items()
        }

    @property
    def measures(self) -> Measures:
        assert self._measures is not None, "budgets of bytes and time need measures"
        return self._measures

    def quantize(self, table: Table) -> ModelProto:
        """The graph, also written to `file`."""
        return self._write(table, self.file)

    def measured(self, table: Table) -> TrialMeasurement:
        """Quantize, judge and measure what budgets ask for."""
        agreement = self.agreement(self.quantize(table))
        return TrialMeasurement(
            agreement,
            self.measures.bytes(self.file) if self._params.bytes is not None else None,
            self.milliseconds() if self._params.latency_ms is not None else None,
        )

    def agreement(self, graph: ModelProto) -> float:
        """Share of the judging images that a graph classifies as float does."""
        found = log_probabilities(graph, self.judging)
        return float((self._of_judging.argmax(1) == found.argmax(1)).mean())

    def divergence(self, graph: ModelProto) -> float:
        """Mean KL(float ‖ int8) of the measuring images, nats."""
        found = log_probabilities(graph, self.measuring)
        return float(divergences(self._of_measuring, found).mean())

    def milliseconds(self) -> float:
        """Of `file`, by its ratio to the graph that has all layers in int8, timed in the same rounds."""
        int8, this = self.measures.milliseconds([self._all_int8, self.file])
        return self._int8_ms * this / int8

    def packed(self, graph: ModelProto) -> int:
        """Bytes of a graph as a download."""
        import onnx

        onnx.save(graph, str(self.file))
        return self.measures.packed(self.file)

    @cached_property
    def _all_int8(self) -> Path:
        self._write({}, self._int8)
        return self._int8

    @cached_property
    def _int8_ms(self) -> float:
        return self.measures.milliseconds([self._all_int8])[0]

    def _write(self, table: Table, file: Path) -> ModelProto:
        import onnx

        params = self._params.model_copy(update={"precision": dict(table)})
        quantize(self._prepared, self._inputs, params, file, ranges=self._ranges)
        return onnx.load(str(file))

    @cached_property
    def _of_judging(self) -> NDArray[np.float64]:
        return log_probabilities(self.floating, self.judging)

    @cached_property
    def _of_measuring(self) -> NDArray[np.float64]:
        return log_probabilities(self.floating, self.measuring)
