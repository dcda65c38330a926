"""How far a runtime's logits are the oracle's, and the first layer in which they are not.

The oracle is `akgp.quantization.simulator`: the exact integer arithmetic of an int8 ONNX file.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from akgp.data import BatchSource
from akgp.deployment.targets import Int8File, activations, target_of
from akgp.quantization import QuantizationError
from akgp.quantization.simulator import simulate
from akgp.quantization.verification import first_difference
from akgp.runtimes import Runtime
from akgp.runtimes.onnx_file import read_onnx

BATCH = 64
"""Images whose integers of all layers are in memory at a time."""
COMPARED = 32
"""Images that differ, of which the layers are compared, at most."""


@dataclass(frozen=True)
class Oracle:
    """The exact logits [N, classes] of images; floating: operations left in floating point."""

    logits: Tensor
    floating: Mapping[str, int]


@dataclass(frozen=True)
class Agreement:
    """A comparison with the oracle.

    Attributes:
        equal: images of which all logits agree, bit for bit.
        same_class: images of which the largest logit is the same one.
        largest: largest difference of a logit.
        first: a clause: the first layer that differs and by how much; empty if all logits are equal.
    """

    images: int
    equal: int
    same_class: int
    largest: float
    first: str = ""

    @property
    def exact(self) -> bool:
        return self.equal == self.images


def oracle(source: Int8File, images: BatchSource) -> Oracle:
    """The logits of every image in order."""
    rows, floating = [], Counter[str]()
    for batch in images.ordered(batch_size=BATCH):
        simulation = source.simulate(batch.inputs.numpy())
        rows.append(torch.from_numpy(simulation.logits))
        floating = simulation.floating
    return Oracle(torch.cat(rows), floating)


def compare(expected: Tensor, logits: Tensor) -> tuple[Agreement, Tensor]:
    """The agreement of two sets of logits [N, classes], and the positions of the images that differ."""
    if expected.shape != logits.shape:
        raise QuantizationError(
            f"the networks cannot be compared: logits {list(logits.shape)} and {list(expected.shape)}"
        )
    # As bits, so that −0 differs from 0, and NaN equals itself.
    differs = (expected.contiguous().view(torch.int32) != logits.contiguous().view(torch.int32)).any(1)
    same_class = int((expected.argmax(1) == logits.argmax(1)).sum())
    largest = float((expected - logits).abs().max())
    agreement = Agreement(len(expected), int((~differs).sum()), same_class, largest)
    return agreement, differs.nonzero().flatten()


def first_deviation(source: Int8File, runtime: Runtime, inputs: Tensor, other: Int8File | None = None) -> str:
    """A clause: the first layer of which a runtime's integers are not the oracle's, and by how much.

    Args:
        inputs: images [N, C, H, W] whose logits differ; the first COMPARED count.
        other: the runtime runs this file's network instead.
    """
    images = inputs[:COMPARED].numpy()
    if runtime.name == "onnxruntime" and other is None:
        model = read_onnx(source.path)  # with its channels of zeros, as it was run
        return f"first in {first_difference(model, images, simulate(model, images).integers)}"
    expected = source.simulate(images).integers
    try:
        return _first_of_observed(other or source, runtime, images, expected)
    except QuantizationError as error:
        return f"the layers cannot be observed: {error}"


def _first_of_observed(
    network: Int8File,
    runtime: Runtime,
    images: NDArray[np.float32],
    expected: Mapping[str, NDArray[np.uint8]],
) -> str:
    makers = {each.output.name: each for each in network.description.operations}
    with tempfile.TemporaryDirectory() as folder:
        file = target_of(runtime).write(network, Path(folder), "observed")
        with closing(runtime.load(file, threads=1)) as running:
            size = running.largest_batch or len(images)
            parts = [running.outputs(images[at : at + size])[1:] for at in range(0, len(images), size)]
    for index, each in enumerate(activations(network.description)):
        if each.name not in expected:
            continue  # only moved, or of another network
        values = np.concatenate([part[index] for part in parts])
        maker = makers.get(each.name)
        name = f"{type(maker).__name__} {maker.label}" if maker else "the image"
        if values.shape != expected[each.name].shape:
            return f"first in {name}, which gives {_sizes(values)} and not {_sizes(expected[each.name])}"
        error = np.abs(np.rint(values / each.scale) + each.zero - expected[each.name])
        if error.any():
            wrong = f"{np.count_nonzero(error)} of {error.size} values"
            return f"first in {name}: {wrong}, by up to {error.max():.0f} steps"
    return "no layer differs while its result is read: the runtime fuses operations, and rounds less often"


def _sizes(values: NDArray[Any]) -> str:
    return "×".join(map(str, values.shape[1:])) + " values"
