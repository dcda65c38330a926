"""Fake quantization: the layers of a float network compute with the rounding of its int8 file.

For quantization-aware training (Jacob et al. 2018, section 3): weights, inputs and outputs of layers are
rounded to values that the file can hold. Gradients pass as if they were not (straight-through), except where
an activation is clipped. Activations have the file's scales, which stay. Weights have those that the export
would choose in each step: BatchNorm's running statistics folded in, enlarged until no kernel can saturate.
BatchNorm itself stays a layer: trained folded, networks collapsed.

Left out is what lies between layers, as a shortcut that is added or the input of a pool, and the rounding of
biases to int32.

Letters of shapes: O output channels, I input channels, K weights of one output.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from akgp.models import ChannelMap
from akgp.models.eval_mode import eval_mode
from akgp.models.layout import OUTPUTS
from akgp.models.view_sizes import uncounted
from akgp.quantization.checking import QuantizationError
from akgp.quantization.qdq import Qdq, rows
from akgp.quantization.saturation import LARGEST_WEIGHT, safe_scales

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger(__name__)

CLAMPS = ("Relu", "Clip")
"""Operations between a layer and the rounding of its output; they round to the same values as without."""


@dataclass(frozen=True)
class Grid:
    """The values of a uint8 activation: (q − zero_point) · scale, q from 0 to 255."""

    scale: float
    zero_point: int

    def rounded(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)

    def on_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook."""
        return (self.rounded(inputs[0]), *inputs[1:])

    def on_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        return self.rounded(output)


@dataclass(frozen=True)
class Rounding:
    """How a layer is rounded.

    output: of the layer with its BatchNorm and ReLU; None where other operations take it in float.
    largest: magnitude of the file's weights, by output channel.
    per_channel: whether each output channel's weights have a scale of their own.
    """

    input: Grid
    output: Grid | None
    largest: Tensor
    per_channel: bool


class RoundedWeight(nn.Module):
    """A parametrization: the weight as the int8 file would hold it; its gradient is passed as it is."""

    def __init__(self, layer: nn.Module, norm: nn.BatchNorm2d | None, *, per_channel: bool) -> None:
        super().__init__()
        self.parts = (layer, norm)  # in a tuple: parts of the network, not of this module
        self.per_channel = per_channel

    def forward(self, weight: Tensor) -> Tensor:
        with uncounted():
            return self._rounded(weight)

    def _rounded(self, weight: Tensor) -> Tensor:
        factor = folded_factor(*self.parts, weight)
        folded = weight * factor
        with torch.no_grad():
            # Neighbours as onnxruntime's kernels have them: K in the order kh, kw, c.
            weight_OK = (folded.movedim(1, -1) if folded.ndim > 2 else folded).flatten(1)
            scale_O = torch.from_numpy(safe_scales(weight_OK.cpu().numpy())).to(weight.device)
            if not self.per_channel:
                scale_O = scale_O.max().expand_as(scale_O)
        zeros_O = torch.zeros_like(scale_O, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(
            folded, scale_O.contiguous(), zeros_O, 0, -LARGEST_WEIGHT, LARGEST_WEIGHT
        )
        return rounded / factor


def folded_factor(layer: nn.Module, norm: nn.BatchNorm2d | None, weight: Tensor) -> Tensor:
    """What the export multiplies each output channel's weights by, [O, 1, …]; 1 in place of 0."""
    shape = (-1, *[1] * (weight.ndim - 1))
    if norm is None or norm.running_var is None:
        return weight.new_ones(len(weight)).view(shape)
    with torch.no_grad():
        factor_O = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            factor_O = factor_O * norm.weight
        if OUTPUTS in layer._buffers:  # of the channels that it computes, without the zeros between them
            written = layer._buffers[OUTPUTS]
            assert written is not None
            factor_O = factor_O[written.argsort()[-len(weight) :]]
        return torch.where(factor_O == 0, 1.0, factor_O).view(shape)


def _in_the_file(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None, rounding: Rounding) -> float:
    """What the file has multiplied the layer's weights by, beside the BatchNorm's factor; nan: not all alike.

    A hard sigmoid behind the layer makes it 1 / 6; what differs by channel the export has folded otherwise.
    """
    weight = layer.weight.detach()
    mine = (weight * folded_factor(layer, norm, weight)).flatten(1).abs().amax(1).cpu()
    known = rounding.largest > 0  # γ = 0 leaves nothing
    if len(mine) != len(known):
        return math.nan
    if not known.any():
        return 1.0
    ratios = rounding.largest[known] / mine[known]
    middle = ratios.median()
    alike = torch.isfinite(middle) and torch.allclose(ratios, middle.expand_as(ratios), rtol=0.05)
    return float(middle) if alike else math.nan


def _folded(
    layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None, rounding: Rounding
) -> tuple[float, nn.BatchNorm2d | None]:
    """The factor of `_in_the_file`, and the BatchNorm that the file has folded: the given one, or none."""
    found = [(_in_the_file(layer, each, rounding), each) for each in dict.fromkeys((norm, None))]
    known = [pair for pair in found if not math.isnan(pair[0])]
    return min(known, key=lambda pair: abs(math.log(pair[0])), default=(math.nan, None))


@contextlib.contextmanager
def fake_quantized(model: nn.Module, int8: ModelProto, example_input: Tensor) -> Iterator[None]:
    """Inside the block `model` computes with the rounding of its int8 file; its parameters stay float.

    Inside, the state of `model` has other names; weights that are trained there are its own outside.

    Args:
        int8: as `quantize` writes it for this network. What is in float there, stays so.
        example_input: [N, C, H, W], on the network's device.

    Raises:
        QuantizationError: no layer of the file is a convolution or linear layer of the network.
    """
    modules, norms = dict(model.named_modules()), norms_of(model, example_input)
    undo = contextlib.ExitStack()
    missed, rounded = [], 0
    with undo:
        for name, rounding in roundings(int8).items():
            layer = modules.get(name)
            if layer is None or rounding is None:
                if not isinstance(layer, ChannelMap):  # its weights are 0 and 1
                    missed.append(name)
                continue
            norm = norms.get(layer)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                factor, norm = _folded(layer, norm, rounding)
                if math.isnan(factor):
                    missed.append(name)
                    continue
                if not math.isclose(factor, 1, rel_tol=0.05):  # the output's grid is of something else
                    rounding = replace(rounding, output=None)
                weight = RoundedWeight(layer, norm, per_channel=rounding.per_channel)
                parametrize.register_parametrization(layer, "weight", weight)
                undo.callback(parametrize.remove_parametrizations, layer, "weight", False)
                rounded += 1
            undo.callback(layer.register_forward_pre_hook(rounding.input.on_input).remove)
            if rounding.output is not None:
                undo.callback((norm or layer).register_forward_hook(rounding.output.on_output).remove)
        if not rounded:
            raise QuantizationError(
                "quantize.qat: none of the int8 layers is a convolution or linear layer of the network "
                f"({', '.join(missed) or 'all are in float'}): it must be null"
            )
        if missed:
            log.warning("quantize.qat: int8, but trained in float: %s", ", ".join(missed))
        yield


def roundings(int8: ModelProto) -> dict[str, Rounding | None]:
    """The layers with int8 weights by name; None for one that several nodes compute, with other inputs."""
    graph = Qdq(int8)
    readers = {name: node for node in graph.nodes for name in node.input}
    uses = Counter(name for node in graph.nodes for name in node.input)

    def grid(scale: str, zero_point: str) -> Grid:
        return Grid(float(graph.constant(scale)), int(graph.constant(zero_point)))

    made: dict[str, Rounding | None] = {}
    for node in graph.weighted():
        weight, given = graph.dequantized(node.input[1]), graph.dequantized(node.input[0])
        assert weight is not None and given is not None and given.zero_point is not None
        name = weight.integers.removesuffix("_quantized").removesuffix(".weight")
        tensor = node.output[0]
        while uses[tensor] == 1 and readers[tensor].op_type in CLAMPS:
            tensor = readers[tensor].output[0]
        reader = readers.get(tensor)
        output = None
        if reader is not None and reader.op_type == "QuantizeLinear":
            output = grid(*reader.input[1:3])
        scales = graph.constant(weight.scale)
        integers = np.abs(rows(node, graph.constant(weight.integers)).astype(np.float32))
        largest = torch.from_numpy(integers.max(1) * scales.reshape(-1))
        rounding = Rounding(grid(given.scale, given.zero_point), output, largest, scales.size > 1)
        made[name] = None if name in made else rounding
    return made


@torch.no_grad()
def norms_of(model: nn.Module, example_input: Tensor) -> dict[nn.Module, nn.BatchNorm2d]:
    """Of convolutions the BatchNorm that takes their output: the export folds it into them."""
    made: list[tuple[Tensor, nn.Module]] = []  # kept, so that no other tensor takes the place of one
    norms: dict[nn.Module, nn.BatchNorm2d] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            norms.update({layer: module for tensor, layer in made if tensor is inputs[0]})
        else:
            made.append((output, module))

    with contextlib.ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                undo.callback(module.register_forward_hook(note).remove)
        with eval_mode(model):
            model(example_input)
    return norms
