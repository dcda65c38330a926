"""Products: convolutions, matrix products and attention, where one tensor's rows are another's columns."""

from __future__ import annotations

import torch
from torch import Tensor

from akgp.pruning.coupling.marks import Marks, along, constant, constants, shrink, unknown, varying
from akgp.pruning.coupling.rules.call import Call, Result, Rule
from akgp.pruning.coupling.rules.grouped import IMAGES, grouped, unite_bias
from akgp.pruning.coupling.units import Product


def contract(call: Call, one: Tensor, d1: int, other: Tensor, d2: int, padding: bool = False) -> None:
    """Unite the units along `d1` of one operand with those along `d2` of the other, over which is summed."""
    m1, m2 = call.marks_of(one), call.marks_of(other)
    if m1 is not None and m2 is not None and m1.weight and not m2.weight:
        contract(call, other, d2, one, d1, padding)
        return
    if m2 is not None and m2.weight and not (m1 is not None and m1.weight) and not _in_heads(call, other, d2):
        read(call, one, d1, other, d2, padding)
        return
    l1 = [ids for ids in (m1.layers if m1 else ()) if d1 in varying(ids)]
    l2 = [ids for ids in (m2.layers if m2 else ()) if d2 in varying(ids)]
    zero = [m is not None and not shrink(m.dead).any() for m in (m1, m2)]
    for layers, others in ((l1, l2), (l2, l1)):
        if layers and (not others or not any(zero)):
            for ids in layers:
                _keep(call, ids, m1, m2)
    if l1 and l2:
        # Batch dimensions lie in front of both; the rows of one are not those of the other.
        first, second = (_last(ids, d) for ids, d in ((l1[0], d1), (l2[0], d2)))
        call.units.unite(first, second, call.where)


def _in_heads(call: Call, tensor: Tensor, dim: int) -> bool:
    """Whether a tensor is computed from parameters, such as learned queries, and divided among heads."""
    marks = call.marks_of(tensor)
    layers = [ids for ids in (marks.layers if marks else ()) if dim in varying(ids)]
    return call.name not in IMAGES and not call.owned(tensor) and any(len(varying(ids)) > 1 for ids in layers)


def _last(ids: Tensor, dim: int) -> Tensor:
    """Ids [batch.., rows, K] or [batch.., K, columns] as [batch.., K]: units alike in all rows."""
    ids = ids.movedim(dim, -1)
    return ids.select(-2, 0) if ids.ndim > 1 else ids


def _keep(call: Call, ids: Tensor, *marks: Marks | None) -> None:
    if all(m is None or m.weight for m in marks):
        call.units.block(ids, f"{call.where} computes with the whole weight")
    else:
        call.units.hold(ids, f"{call.where} reads them with what has no channels")


def read(call: Call, source: Tensor, dim: int, weight: Tensor, column: int, padding: bool) -> None:
    """A weight reads the source's units along `dim` by its columns, which go with them if they are zero."""
    marks, weights = call.marks_of(source), call.marks_of(weight)
    assert weights is not None
    columns = [ids for ids in weights.layers if column in varying(ids)]
    arriving = [ids for ids in (marks.layers if marks else ()) if dim in varying(ids)]
    if not arriving or marks is None:
        for ids in columns:
            call.units.block(ids, f"{call.where} reads what is not removed")
        return
    rows = along(arriving[0], dim)
    if not columns or any(len(varying(ids)) > 1 for ids in columns):
        for ids in arriving:
            call.units.hold(ids, f"all inputs of {call.where} are read")
        for ids in columns:
            call.units.block(ids, call.where)
        return
    vector = shrink(columns[0]).reshape(-1)
    call.units.columns.append(vector)
    if call.units.whole:
        call.units.block_columns()
    kept = call.units.is_blocked(vector) | (rows == 0).any(0)
    values, constant_there = constants(marks.dead, dim)
    zero = constant_there & (values == 0)
    # What holds in training is left to it: only the inference of a cut network must be exact.
    zero = zero | call.units.training
    can_fold = not padding and call.module in call.units.foldable
    folded = ~zero & constant_there & ~kept if can_fold else torch.zeros_like(zero)
    stays = kept | ~(zero | folded)
    call.units.block(vector[stays], f"{call.where} reads what is not zero")
    if not padding and not can_fold:
        constants_met = stays & constant_there & ~kept
        call.units.hold(rows[:, constants_met], f"{call.where} has no bias to take constants of its inputs")
    call.units.hold(rows[:, stays], f"all inputs of {call.where} are read")
    call.units.unite(rows[:, ~stays], vector[~stays], call.where)
    if folded.any():
        call.units.fold(call.module, vector[folded], values[folded])


def passed(call: Call, tensor: Tensor, taken: dict[int, int], out: Tensor) -> list[Tensor]:
    """The layers of an operand along the dimensions that the output has too: dimension -> the output's."""
    marks = call.marks_of(tensor)
    layers = []
    for ids in marks.layers if marks else ():
        if not set(varying(ids)) <= set(taken):  # summed over: an output holds a part of each unit
            continue
        shape, order = [1] * out.ndim, sorted(taken, key=lambda each: taken[each])
        small = ids
        for d in range(ids.ndim):
            if d not in taken:
                small = small.narrow(d, 0, 1)
        small = shrink(small).permute(*order, *[d for d in range(ids.ndim) if d not in taken])
        for position, d in enumerate(order):
            shape[taken[d]] = small.shape[position]
        wide = small.reshape(shape).expand(out.shape)
        if varying(wide):
            layers.append(wide)
    return layers


def result(
    call: Call, out: Tensor, operands: list[tuple[Tensor, dict[int, int]]], bias: Tensor | None
) -> Result:
    """Marks of a product: units of the operands' remaining dimensions, zero where the operand's are."""
    layers, dead = [], constant(out, 0)
    sides = [(passed(call, tensor, taken, out), call.marks_of(tensor)) for tensor, taken in operands]
    zero = [bool(own) and marks is not None and not shrink(marks.dead).any() for own, marks in sides]
    for (own, marks), is_zero in zip(sides, zero, strict=True):
        if marks is not None and marks.weight:
            call.units.rows += [shrink(ids).reshape(-1) for ids in own]
        # Such as the rows of attention, one a query: they stay; the columns are zero with their units.
        if own and not is_zero and any(zero):
            for ids in own:
                _keep(call, ids, marks)
            continue
        if own and not is_zero:
            dead = unknown(out)
        layers += own
    added = call.marks_of(bias) if bias is not None else None
    if bias is not None and layers:
        if added is None:
            dead = (
                dead + bias.reshape(1, -1, *[1] * (out.ndim - 2))[:, : out.shape[1]]
                if call.name in IMAGES
                else dead + bias
            )
            dead = dead.expand(out.shape)
        elif shrink(added.dead).any():
            dead = unknown(out)
        else:
            if any(out.ndim - 1 not in varying(ids) for ids in layers) and call.name not in IMAGES:
                # Units of the rows get it all the same, those of the columns lose it.
                dead = bias.expand(out.shape) if len(layers) == 1 else unknown(out)
            unite_bias(call, added, layers, out)
    if not layers and added is not None:
        for ids in added.layers:
            call.units.block(ids, f"added in {call.where} to what is not removed")
    if not layers and not call.weight():
        # Without units, but a number that it is multiplied with may follow their width, as attention's scale.
        return Marks((), unknown(out))
    return Marks(tuple(layers), dead, call.weight())


def _note(call: Call, macs: int, *sides: Tensor | None, weight: bool = False) -> None:
    """Note the cost of a product without a parameter; each of `sides` has units of its own, or None."""
    layers = tuple(shrink(ids).reshape(-1) for ids in sides if ids is not None)
    if layers and not call.units.training:
        call.units.products.append(Product(macs, layers, weight))


def _along(call: Call, tensor: Tensor, dim: int) -> Tensor | None:
    """The ids of a tensor that vary along a dimension."""
    marks = call.marks_of(tensor)
    return next((ids for ids in (marks.layers if marks else ()) if dim in varying(ids)), None)


def matmul(call: Call) -> Result:
    """mm, bmm, mv, dot and their variants with a sum."""
    tensors, bias, out = call.args, None, call.outputs[0]
    if call.name in ("addmm", "baddbmm", "addmv", "_addmm_activation"):
        bias, tensors = tensors[0], tensors[1:]
    one, other = tensors[:2]
    batch = one.ndim - 2 if one.ndim > 2 else 0
    d1, d2 = one.ndim - 1, batch
    contract(call, one, d1, other, d2)
    if not any(map(call.owned, (one, other))):
        summed = _along(call, one, d1)
        summed = _along(call, other, d2) if summed is None else summed
        rows_of, columns_of = _along(call, one, max(d1 - 1, 0)), _along(call, other, other.ndim - 1)
        sides = (rows_of if one.ndim > 1 else None, columns_of if other.ndim > 1 else None)
        _note(call, out.numel() * one.shape[d1], summed, *sides)
    front = {d: d for d in range(batch)}
    rows = {**front, one.ndim - 2: batch} if one.ndim > 1 else {}
    columns = {**front, other.ndim - 1: out.ndim - 1} if other.ndim > 1 else {}
    return result(call, out, [(one, rows), (other, columns)], bias)


def attention(call: Call) -> Result:
    """Scaled dot products of q, k and v [B, H, T, D]: the default scale depends on the width of q."""
    query, key, value = call.args[:3]
    out = call.outputs[0]
    contract(call, query, query.ndim - 1, key, key.ndim - 1)
    for tensor in (query, key):
        marks = call.marks_of(tensor)
        for ids in marks.layers if marks else ():
            if call.kwargs.get("scale") is None:
                call.units.hold(ids, f"the scale of {call.where} depends on their number")
    last = value.ndim - 1
    macs = query.numel() * key.shape[-2]
    _note(call, macs, _along(call, query, query.ndim - 1))
    _note(call, macs * value.shape[-1] // query.shape[-1], _along(call, value, last))
    return result(call, out, [(value, {**{d: d for d in range(last - 1)}, last: last})], None)


def convolution(call: Call) -> Result:
    """Filters read the channels of the input, in groups each its own."""
    source, weight, bias = call.args[:3]
    padding, transposed, groups = call.args[4], call.args[6], call.args[8]
    out = call.outputs[0]
    weights = call.marks_of(weight)
    row, column = (1, 0) if transposed else (0, 1)
    if weights is None or not weights.weight:
        return None  # filters that are computed from the input
    for ids in weights.layers:
        if any(d > 1 for d in varying(ids)):
            call.units.block(ids, "positions of a kernel")
    marks = call.marks_of(source)
    for ids in marks.layers if marks else ():
        if any(d != 1 for d in varying(ids)):
            call.units.hold(ids, f"{call.where} is over the channels")
    padded = any(padding) or transposed
    if not call.owned(weight):
        macs = (source if transposed else out).numel() * weight[0].numel()
        of_parameters = (marks := call.marks_of(weight)) is not None and marks.weight
        _note(call, macs, _along(call, weight, row), _along(call, weight, column), weight=of_parameters)
    if groups == 1:
        contract(call, source, 1, weight, column, padded)
        return result(call, out, [(weight, {row: 1})], bias)
    return grouped(call, source, weight, bias, groups, bool(transposed))


def deformable(call: Call) -> Result:
    """torchvision's deformable convolution: offsets and masks are read whole."""
    source, weight, offset, mask, bias = call.args[:5]
    for tensor in (offset, mask):
        marks = call.marks_of(tensor)
        for ids in marks.layers if marks else ():
            call.units.hold(ids, f"{call.where} reads all of them")
    weights, groups = call.marks_of(weight), call.args[11]
    if groups > 1 or weights is None or not weights.weight:
        return None
    contract(call, source, 1, weight, 1, padding=True)
    return result(call, call.outputs[0], [(weight, {0: 1})], bias)


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_addmm_activation"), matmul),
    "convolution": convolution,
    "deform_conv2d": deformable,
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
                     "_scaled_dot_product_fused_attention_overrideable"), attention),
}  # fmt: skip
