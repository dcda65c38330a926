"""The latency of a network's int8 file as a function of its layers' widths, predicted and measured.

Weights make no difference for speed, so one export of the dense network serves for all widths: its graph with
fewer filters is timed. What a pruned network of its own takes, `WidthTimes.of` measures.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import nn

from akgp.deployment.kernel_table import KernelTable, KernelTime, Knots, graph_timer, table_file
from akgp.deployment.package import align
from akgp.deployment.shortest import shortest_ms
from akgp.deployment.timing_twin import timing_twin
from akgp.params import Precision, Quantize
from akgp.quantization import export_onnx
from akgp.quantization.channels import Channels, channels
from akgp.quantization.kernel_graphs import KernelGraph, Size, kernel_graphs
from akgp.quantization.resizing import resized
from akgp.runtimes import Runtime, require_installed

ENTERING = 6
"""Numbers of channels that enter a part which are measured at most; its own filters are all."""
DENSE = "dense"


class WidthTimes:
    """See akgp.pruning.latency, whose protocol Latencies this is.

    Whole networks are timed in turn with the dense int8 file, in short blocks. Of both the shortest counts,
    since other processes only make one longer, and their ratio: what slows the machine down slows down both.

    Attributes:
        float_ms: of the dense network in float32.
        measured_parts: kernels that were timed, and not known from earlier runs.
    """

    def __init__(
        self, model: nn.Module, shape: Sequence[int], runtime: Runtime, threads: int, folder: Path,
        table: KernelTable | None = None, precision: Mapping[str, Precision] | None = None,
    ) -> None:  # fmt: skip
        """Export, quantize and time the dense network.

        Args:
            shape: of an image, (channels, H, W).
            folder: for files, as long as this is used.
            precision: of layers that are not int8, as `quantize.precision` names them.

        Raises:
            GraphError: the runtime is not installed, or cannot run the network.
            QuantizationError: it cannot be exported, or how it is resized is not known.
        """
        require_installed(runtime)
        self._runtime, self._folder, self._shape = runtime, folder, tuple(shape)
        self._threads, self._params = threads, Quantize(precision=dict(precision or {}))
        self._table = table or KernelTable(table_file(runtime, threads), graph_timer(runtime, threads))
        self._dense = self.written(model, DENSE)
        self._model = onnx.load(str(self._dense))
        given = self._model.graph.input[0].name
        self._channels: Channels = channels(self._model, {given: self._shape[0]})
        self._kernels: list[KernelGraph] = kernel_graphs(self._model)
        self._times: list[KernelTime] = []
        self.measured_parts = 0
        self._dense_ms, self.float_ms = self._shortest(folder / f"{DENSE}.float.onnx")

    def prepare(self, allowed: Mapping[str, Sequence[int]]) -> None:
        """Measure the parts of a network whose layers may have these widths, as far as they are not known."""
        knots = [self._knots(kernel, allowed) for kernel in self._kernels]
        self.measured_parts += self._table.measure(
            {
                kernel.signature(size): partial(kernel.at, size)
                for kernel, each in zip(self._kernels, knots, strict=True)
                for size in each.sizes()
            }
        )
        self._times = [
            KernelTime(kernel, each, self._table) for kernel, each in zip(self._kernels, knots, strict=True)
        ]

    def predicted(self, widths: Mapping[str, int]) -> float:
        """The sum of all parts, without zeros, ms: comparable with other predictions only."""
        return sum(self.by_part(widths).values())

    def by_part(self, widths: Mapping[str, int]) -> dict[str, float]:
        """The time of each part, ms, by the name of its layer."""
        return {
            kernel.name: time.at(self._size(kernel, widths))
            for kernel, time in zip(self._kernels, self._times, strict=True)
        }

    def measured(self, widths: Mapping[str, int]) -> float:
        """The dense network's graph with fewer filters, ms."""
        path = self._folder / "narrow.onnx"
        onnx.save(resized(self._model, self._channels, widths), str(path))
        return self.timed(path)

    def of(self, model: nn.Module) -> float:
        """A network's own int8 file, ms."""
        return self.timed(self.written(model, "pruned"))

    def float_ms_of(self, model: nn.Module) -> float:
        """Another network in float32, ms."""
        path = self._folder / "other.float.onnx"
        export_onnx(model.cpu(), torch.zeros(1, *self._shape), path)
        return self.timed(path)

    def timed(self, path: Path) -> float:
        """A file of a network for the same images, ms."""
        dense, this = self._shortest(path)
        return self._dense_ms * this / dense

    def _shortest(self, path: Path) -> list[float]:
        """Of the dense int8 file and of another, as they are deployed."""
        files = []
        for file in (self._dense, path):
            files.append(file.with_suffix(".deployed.onnx"))
            shutil.copyfile(file, files[-1])
            align(files[-1], self._runtime)
        return shortest_ms(files, self._shape, self._runtime, self._threads)

    def written(self, model: nn.Module, name: str) -> Path:
        """The int8 file of a network, whose scales are of no use but for speed."""
        return timing_twin(model, self._shape, self._folder, name, self._params).path

    def _size(self, kernel: KernelGraph, widths: Mapping[str, int]) -> Size:
        entering = self._channels.count(kernel.inputs[0].name, widths)
        return Size(entering, widths.get(kernel.name, kernel.dense.filters) if kernel.has_filters else 0)

    def _knots(self, kernel: KernelGraph, allowed: Mapping[str, Sequence[int]]) -> Knots:
        dense = kernel.dense
        filters = sorted(allowed.get(kernel.name, [dense.filters])) if kernel.has_filters else [0]
        return Knots(tuple(self._entering(kernel, allowed)), tuple(filters))

    def _entering(self, kernel: KernelGraph, allowed: Mapping[str, Sequence[int]]) -> list[int]:
        """Some of the numbers of channels that may enter a part, from the least to the most."""
        activation = kernel.inputs[0].name
        sources = [each for each in self._channels.terms[activation] if each in allowed]
        if len(sources) == 1:
            (source,) = sources
            every = sorted(self._channels.count(activation, {source: width}) for width in allowed[source])
        else:  # of several layers, such as a concatenation's
            ends = [
                self._channels.count(activation, {each: pick(allowed[each]) for each in sources})
                for pick in (min, max)
            ]
            every = list(range(ends[0], ends[1] + 1, 8))
            every = sorted({*every, ends[1]})
        return thinned(every, ENTERING)


def thinned(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, the first and last among them, about equally far by their ratios."""
    if len(values) <= most:
        return list(values)
    first, last = values[0], values[-1]
    wanted = [first * (last / first) ** (index / (most - 1)) for index in range(most)]
    return sorted({min(values, key=lambda value: abs(value - each)) for each in wanted})
