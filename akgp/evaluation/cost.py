"""Size of a network: its parameters and multiply-accumulates (MACs).

Both are counted on the network as it runs: removed filters count nothing, masked ones in full.
Bytes on disk and latency are measured elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Example, Inputs

aten = torch.ops.aten
Formula = Callable[..., int]


@dataclass(frozen=True)
class Counts:
    """Size of a network."""

    params: int
    """Parameters, each shared one once."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products for one input of the batch."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass, for one input of the batch."""

    total: int
    by_parameter: Mapping[nn.Parameter, int]
    """Those of operations that read a parameter itself: a convolution's or linear layer's weight, also
    where it is used by a function. The total has those of other products too, such as attention's."""


def count(model: nn.Module, example_input: Example) -> Counts:
    """Parameters and MACs of `model` in eval mode.

    MACs are those of convolutions and of matrix products, whatever calls them: linear and recurrent
    layers, attention's projections, and attention's own two products, fused or written out. Biases,
    norms, activations, pooling and sums count nothing. Torchvision publishes the same figures.

    Args:
        example_input: [N, ...], or several inputs as `akgp.models.Inputs.of` takes them; the MACs are
            divided by N.
    """
    return Counts(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, example_input).total,
    )


def count_macs(model: nn.Module, example_input: Example) -> Macs:
    """The MACs of `count`, and which of them belong to which parameter."""
    parameter = next(model.parameters(), None)
    inputs = Inputs.of(model, example_input)
    if parameter is not None:
        inputs = inputs.map(lambda each: each.to(parameter.device))
    owners = {_storage(each): each for each in model.parameters()}
    flops: dict[nn.Parameter | None, int] = {}

    def owned(formula: Formula) -> Formula:
        def counted(*args: Any, out_val: Any, **options: Any) -> int:
            operands = (each for each in (*args, *options.values()) if isinstance(each, Tensor))
            # By storage: functions get views of a parameter, such as a transposed weight.
            # Biases, which some of these operations add, are vectors.
            owner = next(
                (owners[key] for each in operands if each.ndim > 1 and (key := _storage(each)) in owners),
                None,
            )
            number = formula(*args, out_val=out_val, **options)
            flops[owner] = flops.get(owner, 0) + number
            return number

        counted._get_raw = True  # type: ignore[attr-defined]  # the counter hands it tensors, not shapes
        return counted

    # Of the operations that torch counts, those without a weight (flex attention) need no owner.
    formulas = {
        operation: owned(formula)
        for operation, formula in ({**flop_registry, **UNCOUNTED}).items()
        if isinstance(operation, torch._ops.OpOverloadPacket)
    }
    with (
        eval_mode(model),
        _without_gradients(model),
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
    ):
        inputs.run(model)
    batch = 2 * inputs.batch  # a multiply-accumulate is two operations
    macs = {owner: number // batch for owner, number in flops.items() if owner is not None}
    return Macs(counter.get_total_flops() // batch, macs)


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Parameters need no gradient in the block: torch's counter fails where a view of one enters a module."""
    trained = [each for each in model.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)


def _storage(tensor: Tensor) -> int:
    """The identity of a tensor's storage, which views share; also for tensors without data."""
    return tensor.untyped_storage()._cdata


def _product(matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _recurrent(inputs: Tensor, *weights: Any, **_: Any) -> int:
    """FLOPs of one layer in one direction, given two matrices; of all layers, given a list (cuDNN)."""
    matrices = weights[0] if isinstance(weights[0], (list, tuple)) else weights[:2]
    steps = inputs.shape[0] * inputs.shape[1]
    return 2 * steps * sum(each.numel() for each in matrices if each.ndim == 2)


# Operations that torch's counter leaves out.
UNCOUNTED: dict[Any, Formula] = {
    aten.mv: _product,
    aten.addmv: lambda _, matrix, vector, **__: _product(matrix, vector),
    aten.dot: _product,
    aten.addbmm: lambda _, first, second, **__: 2 * first.numel() * second.shape[2],
    aten._addmm_activation: lambda _, first, second, **__: 2 * first.numel() * second.shape[1],
    aten._trilinear: lambda one, weight, *_, **__: 2 * len(one) * weight.numel(),  # nn.Bilinear
    aten.mkldnn_rnn_layer: _recurrent,
    aten._cudnn_rnn: _recurrent,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
}
