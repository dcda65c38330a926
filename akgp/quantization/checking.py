"""Checks that an exported graph computes what its network does, and that all of its values are finite."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from akgp.models.copying import deep_copy
from akgp.models.eval_mode import eval_mode
from akgp.runtimes.onnxruntime import guarded, session

BATCHES = (1, 3)  # the export traces a batch of 2: a size that it made a constant fails on both
TOLERANCE = 1e-3
"""Largest difference between a graph's logits and its network's, as a share of the largest logit."""
REPEATED = 1e-5
"""Likewise between two calls of the network: kernels of GPUs may add in another order."""
ROUNDING = 4
"""Or as a multiple of the error that float32 makes in the network's own logits: some amplify it."""


class QuantizationError(ValueError):
    """A network cannot be exported or quantized."""


def as_array(images: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    """Images as float32 on the CPU, wherever a tensor lies and whether or not it has a gradient."""
    return np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images, dtype=np.float32)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What `model` gives for the images.

    Raises:
        QuantizationError: it is not a tensor, as of Hugging Face's networks.
    """
    with torch.no_grad():
        output = model(images)
    if not isinstance(output, Tensor):
        raise QuantizationError(
            f"{type(model).__name__}: its forward gives {type(output).__name__}, must be a tensor "
            "[N, classes]: put it into a module whose forward returns its logits alone"
        )
    return output


def require_same(model: nn.Module, path: str | Path, example_input: Tensor) -> None:
    """Compare the ONNX graph with the network on random images, for several batch sizes.

    Args:
        model: in eval mode.
        path: of a graph with one input [N, C, H, W] and one output [N, classes].
        example_input: [any N, C, H, W], on the network's device.

    Raises:
        QuantizationError: the logits differ or are not finite, or the network's output is not a tensor.
        GraphError: onnxruntime cannot run the graph.
    """
    generator, running = torch.Generator().manual_seed(0), session(path, threads=1)
    for count in BATCHES:
        images = torch.randn(count, *example_input.shape[1:], generator=generator)
        require_finite(model, images.to(example_input.device))
        expected, again = (logits_of(model, images.to(example_input.device)).cpu() for _ in range(2))
        if (apart := float((expected - again).abs().max())) > REPEATED * float(expected.abs().max()):
            raise QuantizationError(
                f"{type(model).__name__}: for the same images it gives logits that differ by {apart:.3g} "
                "from call to call: its forward must be a function of the images alone, neither random nor "
                "of a state that it keeps"
            )
        with guarded(f"{type(model).__name__}: onnxruntime cannot run its graph for a batch of {count}"):
            (got,) = running.run(None, {running.get_inputs()[0].name: images.numpy()})
        if got.shape != expected.shape:
            raise QuantizationError(
                f"{type(model).__name__}: for {count} images its ONNX graph gives logits {list(got.shape)}, "
                f"the network {list(expected.shape)}"
            )
        difference = float((torch.from_numpy(got) - expected).abs().max())
        # `not <=`, so that NaN is an error. The floor is for networks whose logits are all zero.
        allowed = TOLERANCE * max(float(expected.abs().max()), TOLERANCE)
        if not difference <= allowed and not difference <= ROUNDING * _rounding(model, images, expected):
            raise QuantizationError(
                f"{type(model).__name__}: for {count} image(s) its ONNX graph gives logits that differ by "
                f"{difference:.3g} from the network's: does it depend on the batch size, or on a state?"
            )


def _rounding(model: nn.Module, images: Tensor, logits: Tensor) -> float:
    """The largest error of `logits`, from the same network in float64; 0 if it computes in no other type."""
    exact = deep_copy(model).cpu().double()
    try:
        with torch.no_grad():
            return float((exact(images.double()) - logits).abs().max())
    except RuntimeError:  # such as a constant in float32 inside its forward
        return 0.0


def require_finite(model: nn.Module, images: Tensor) -> None:
    """Raise QuantizationError unless all layers of `model` give finite values; name the first that does not.

    Args:
        images: [N, C, H, W], on the network's device.
    """
    not_finite: list[str] = []

    # Of every layer, since a ReLU or a softmax behind it can make NaN or inf look finite again.
    def check(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            not_finite.append(name)

    handles = [module.register_forward_hook(partial(check, name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not_finite:
        where = f"layer {not_finite[0]}" if not_finite[0] else "its forward, outside of its layers,"
        raise QuantizationError(
            f"{type(model).__name__}: {where} gives values that are not finite: has its training diverged, "
            "or does it divide by zero?"
        )
