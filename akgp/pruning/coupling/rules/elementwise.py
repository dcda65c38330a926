"""Operations that compute every position from the same position of their operands."""

from __future__ import annotations

import torch
from torch import Tensor

from akgp.pruning.coupling.marks import Marks, constant, shrink, tidy, varying
from akgp.pruning.coupling.rules.call import Call, Result, Rule

FACTORS = ("mul", "div")
"""Operations that give zero where their first operand, or one of them, is zero."""


def pointwise(call: Call) -> Result:
    """Unite the units at equal positions; a size of 1 broadcasts and unites nothing."""
    out = call.outputs[0]
    layers: list[Tensor] = []
    for tensor in call.tensors:
        marks = call.marks_of(tensor)
        if marks is None or tensor.ndim > out.ndim:
            continue
        for ids in marks.layers:
            if marks.weight and _meets_unmarked(call, tensor, ids, out):
                continue
            if not marks.weight and call.name.strip("_") not in FACTORS and _beside(call, tensor, ids, out):
                call.units.hold(ids, f"{call.where} joins them with what has none of them")
                continue
            merge(call, layers, ids.expand(out.shape))
    if not layers and not call.weight():
        return []
    found = [
        marks for each in call.tensors if (marks := call.marks_of(each)) and marks.layers and not marks.weight
    ]
    if call.name in ("add", "add_") and len(found) > 1:
        call.units.sums += [shrink(ids).reshape(-1) for ids in layers]
    return Marks(tuple(layers), _dead(call, out), call.weight())


def made(call: Call) -> Result:
    """A tensor in the shape of another, such as dropout's noise: it has nothing of its units."""
    return []


def merge(call: Call, layers: list[Tensor], ids: Tensor) -> None:
    """Add ids to those of a tensor, united with the layer that varies along the same dimension."""
    dims = set(varying(ids))
    if not dims:
        return
    for index, other in enumerate(layers):
        if dims & set(varying(other)):
            call.units.unite(other, ids, call.where)
            layers[index] = either(other, ids)
            return
    layers.append(ids)


def either(one: Tensor, other: Tensor) -> Tensor:
    """Ids of one operand, of the other where the first has none; the simpler of the two if both have all."""
    if (shrink(one) != 0).all() and len(varying(one)) <= len(varying(other)):
        return one
    if (shrink(other) != 0).all():
        return other
    small, large = shrink(one), shrink(other)
    return tidy(torch.where(small == 0, large, small).expand(one.shape))


def _meets_unmarked(call: Call, tensor: Tensor, ids: Tensor, out: Tensor) -> bool:
    """Whether a parameter meets an activation that has no units along its dimension, such as positions.

    Such a parameter's entries can not be removed, as the activation's can not.
    """
    shift = out.ndim - tensor.ndim
    dims = {d + shift for d in varying(ids)}
    for other in call.tensors:
        marks = call.marks_of(other)
        if other is tensor or other.ndim == 0 or (marks is not None and marks.weight):
            continue
        offset = out.ndim - other.ndim
        full = {d for d in dims if d >= offset and other.shape[d - offset] == out.shape[d] > 1}
        taken = {d + offset for each in (marks.layers if marks else ()) for d in varying(each)}
        if full and not full & taken:
            call.units.block(ids, f"added to or multiplied with what has no channels ({call.where})")
            return True
    return False


def _beside(call: Call, tensor: Tensor, ids: Tensor, out: Tensor) -> bool:
    """Whether another activation has units along other dimensions alone, such as channels beside tokens.

    Its values are there where those of `ids` are not.
    """
    dims = {d + out.ndim - tensor.ndim for d in varying(ids)}
    for other in call.tensors:
        marks, shift = call.marks_of(other), out.ndim - other.ndim
        if other is tensor or marks is None or marks.weight or not marks.layers:
            continue
        full = {d for d in dims if d >= shift and other.shape[d - shift] > 1}
        if full and not full & {d + shift for each in marks.layers for d in varying(each)}:
            return True
    return False


def _dead(call: Call, out: Tensor) -> Tensor:
    if call.name in ("mul", "mul_") and not call.weight():
        found = filter(None, map(call.marks_of, call.tensors))
        if any(not shrink(marks.dead).any() for marks in found):
            return constant(out, 0)  # whatever the other factor is; of weights it may be 0 / 0
    dead = call.on_dead(shrink)
    dead = dead.to(out.dtype) if dead.dtype != out.dtype else dead
    if dead.ndim > out.ndim or any(
        a not in (1, b) for a, b in zip(dead.shape[::-1], out.shape[::-1], strict=False)
    ):
        return constant(out, float("nan"))
    if dead.numel() > 1 and not dead.any():
        return constant(out, 0)
    return tidy(dead.expand(out.shape)) if dead.numel() < 2**16 else dead.expand(out.shape)


# Besides those that torch tags as pointwise.
NAMES = """
_prelu_kernel prelu rrelu rrelu_with_noise native_dropout dropout celu _to_copy bernoulli div_ where
masked_fill masked_fill_ hardswish hardswish_
"""
POINTWISE: dict[str, Rule] = dict.fromkeys(NAMES.split(), pointwise)
MADE = """
empty_like zeros_like ones_like full_like rand_like randn_like randint_like
new_empty new_zeros new_ones new_full new_empty_strided
"""
POINTWISE |= dict.fromkeys(MADE.split(), made)
