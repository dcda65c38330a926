"""Operations that move positions about: they run on the ids themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from akgp.pruning.coupling.marks import Marks, constant, shrink, tidy, unknown, varying
from akgp.pruning.coupling.rules.call import Call, Result, Rule


def moved(call: Call) -> Result:
    """The operation itself, applied to the ids and the dead values of its first operand."""
    source = call.tensors[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    outputs = call.outputs
    layers = [_apply(call, ids) for ids in marks.layers]
    if all(stride == 0 or size == 1 for stride, size in zip(marks.dead.stride(), source.shape, strict=True)):
        value = shrink(marks.dead).reshape(-1)[0]
        dead = [value.expand(out.shape) for out in outputs]
    else:
        dead = [tidy(each) for each in _apply(call, marks.dead)]
    result: list[Marks | None] = []
    for index, out in enumerate(outputs):
        ids = tuple(each for layer in layers if varying(each := tidy(layer[index])))
        result.append(Marks(ids, dead[index].to(out.dtype), marks.weight))
        for each in ids:
            _constrain(call, marks, each)
    return result


def _apply(call: Call, tensor: Tensor) -> list[Tensor]:
    first = next(index for index, each in enumerate(call.args) if isinstance(each, Tensor))
    args = list(call.args)
    for attempt in (tensor, tensor.contiguous()):
        args[first] = attempt
        try:
            return list(pytree.tree_leaves(call.func(*args, **call.kwargs)))
        except RuntimeError:
            continue
    args[first] = tensor.double()  # some operations, such as im2col, have no variant for integers
    return [each.round().to(tensor.dtype) for each in pytree.tree_leaves(call.func(*args, **call.kwargs))]


def _constrain(call: Call, marks: Marks, ids: Tensor) -> None:
    """A view in which units vary along several dimensions stays one if its rows lose equally many."""
    dims = varying(ids)
    before = max((len(varying(each)) for each in marks.layers), default=0)
    if len(dims) > before and not marks.weight:
        table = shrink(ids).squeeze()
        call.units.tabulate(table.flatten(0, -2), needed=False, reason=call.where)


def split(call: Call) -> Result:
    """As `moved`; parts of equal size stay so if they lose equally many units."""
    result = moved(call)
    if isinstance(result, list):
        parts = [each for each in result if each is not None]
        for rows in zip(*(each.layers for each in parts), strict=False):
            flat = [shrink(each).reshape(-1) for each in rows]
            if len({len(each) for each in flat}) == 1 and not all(
                torch.equal(flat[0], each) for each in flat
            ):
                call.units.tabulate(torch.stack(flat), needed=False, reason=call.where)
    return result


def sliced(call: Call) -> Result:
    """As `moved`; one of several equal parts stays so if all lose equally many units."""
    source = call.args[0]
    dim, start, end = call.arg(1, "dim", 0), call.arg(2, "start"), call.arg(3, "end")
    marks, size = call.marks_of(source), source.shape[dim]
    start, end = start or 0, min(size if end is None else end, size)
    start, end = start % size if start < 0 else start, end % size if end < 0 else end
    part = end - start
    if (
        marks is not None
        and call.arg(4, "step", 1) == 1
        and 0 < part < size
        and not size % part
        and not start % part
    ):
        for ids in marks.layers:
            if varying(ids) == (dim % ids.ndim,):
                table = shrink(ids).reshape(size // part, part)
                call.units.tabulate(table, needed=False, reason=call.where)
    return moved(call)


def padded(call: Call) -> Result:
    """Zeros around the positions: no units there; dimensions without units stay without."""
    source, pads, value = call.args[0], list(call.args[1]), call.arg(2, "value", 0)
    marks, out = call.marks_of(source), call.outputs[0]
    if marks is None:
        return None
    layers = []
    for ids in marks.layers:
        small = shrink(ids)
        own = list(pads)
        for d in range(ids.ndim):
            if d not in varying(ids):
                back = 2 * (ids.ndim - 1 - d)
                own[back : back + 2] = [0] * len(own[back : back + 2])
        layers.append(torch.constant_pad_nd(small, own, 0).expand(out.shape))
    scalar = shrink(marks.dead)
    if scalar.numel() == 1 and bool(scalar == (value or 0)):
        dead = scalar.reshape(-1)[0].expand(out.shape)
    else:
        dead = tidy(_apply(call, marks.dead)[0])
    return [Marks(tuple(layers), dead, marks.weight)]


def patches(call: Call) -> Result:
    """im2col: a channel's patches are its own, also where zeros around it are among them."""
    marks, out = call.marks_of(call.args[0]), call.outputs[0]
    if marks is None:
        return None
    channels = out.ndim - 2
    if any(varying(ids) != (channels,) for ids in marks.layers) or shrink(marks.dead).any():
        return moved(call)
    shape = [1] * channels + [-1, 1]
    copies = out.shape[channels] // call.args[0].shape[channels]
    layers = [
        shrink(ids).reshape(-1).repeat_interleave(copies).reshape(shape).expand(out.shape)
        for ids in marks.layers
    ]
    return [Marks(tuple(layers), constant(out, 0), marks.weight)]


def restrided(call: Call) -> Result:
    """as_strided: the same tensor where the strides differ along dimensions of one position alone."""
    source, size, stride = call.args[:3]
    marks = call.marks_of(source)
    alike = tuple(size) == tuple(source.shape) and all(
        one == other for length, one, other in zip(size, stride, source.stride(), strict=True) if length > 1
    )
    return [Marks(marks.layers, marks.dead, marks.weight)] if marks is not None and alike else None


def as_complex(call: Call) -> Result:
    """view_as_complex and view_as_real: without, and with, a last dimension of two parts."""
    source, out = call.args[0], call.outputs[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    layers = []
    for ids in marks.layers:
        if out.ndim > source.ndim:
            layers.append(ids[..., None].expand(out.shape))
        elif source.ndim - 1 in varying(ids):
            (call.units.block if marks.weight else call.units.hold)(ids, f"the two parts of {call.where}")
        else:
            layers.append(ids[..., 0])
    zero = not shrink(marks.dead).any()
    return [Marks(tuple(layers), constant(out, 0 if zero else 1), marks.weight)]


def concatenated(call: Call) -> Result:
    """Units side by side; along a dimension without units, such as tokens, they are the same units."""
    tensors = [each for each in call.args[0] if each.numel()]
    out = call.outputs[0]
    stacked = call.name == "stack"
    dim = call.arg(1, "dim", 0) % out.ndim
    found = [call.marks_of(each) for each in tensors]
    sides: list[list[Tensor | None]] = [[], []]  # layers that do not vary along dim, and that do
    for marks in found:
        ids = [each.unsqueeze(dim) if stacked else each for each in (marks.layers if marks else ())]
        across = [each for each in ids if dim in varying(each)]
        if stacked:
            across, ids = ids, []
        rest = [each for each in ids if dim not in varying(each)]
        if len(across) > 1 or len(rest) > 1:
            return None
        sides[0].append(rest[0] if rest else None)
        sides[1].append(across[0] if across else None)
    layers = []
    for side, parts in enumerate(sides):
        given = [each for each in parts if each is not None]
        if not given:
            continue
        if side == 0:
            for other in given[1:]:
                call.units.unite(given[0].narrow(dim, 0, 1), other.narrow(dim, 0, 1), call.where)
            layers.append(given[0].narrow(dim, 0, 1).expand(out.shape))
        else:
            layers.append(_joined(parts, tensors, dim, out, stacked))
    dead = _dead_joined(call, tensors, found, out, dim, stacked)
    weight = all(marks is not None and marks.weight for marks in found)
    return [Marks(tuple(each for each in map(tidy, layers) if varying(each)), dead, weight)]


def _joined(parts: list[Any], tensors: list[Tensor], dim: int, out: Tensor, stacked: bool) -> Tensor:
    """Ids side by side along `dim`, in as few dimensions as they need; 0 where a tensor has none."""
    small = [shrink(each) if each is not None else None for each in parts]
    shape = [max(each.shape[d] for each in small if each is not None) for d in range(out.ndim)]
    blocks = []
    for each, tensor in zip(small, tensors, strict=True):
        shape[dim] = 1 if stacked else tensor.shape[dim]
        blocks.append((torch.zeros((), dtype=torch.long) if each is None else each).expand(shape))
    return torch.cat(blocks, dim).expand(out.shape)


def _dead_joined(
    call: Call, tensors: list[Tensor], found: list[Marks | None], out: Tensor, dim: int, stacked: bool
) -> Tensor:
    values = [each if marks is None else marks.dead for each, marks in zip(tensors, found, strict=True)]
    if not any(shrink(each).any() for each in values):
        return constant(out, 0)
    return tidy(torch.stack(values, dim) if stacked else torch.cat(values, dim).to(out.dtype))


def copied(call: Call) -> Result:
    """copy_: the units of the source; into a part of a tensor, they are not followed."""
    target, source = call.args[0], call.args[1]
    marks = call.marks_of(source)
    if marks is None or target.shape != source.shape:
        return None
    return [Marks(marks.layers, marks.dead.to(target.dtype), marks.weight)]


def repeated_rows(call: Call) -> Result:
    """embedding: the columns of the table; its rows are chosen by the input and stay. No weight any more."""
    table = call.args[0]
    marks, out = call.marks_of(table), call.outputs[0]
    if marks is None:
        return None
    layers = []
    for ids in marks.layers:
        if varying(ids) == (1,):
            layers.append(shrink(ids)[0].expand(out.shape))
        else:
            call.units.block(ids, f"rows of {call.where}")
    dead = constant(out, 0) if not shrink(marks.dead).any() else unknown(out)
    return [Marks(tuple(layers), dead, False)]


MOVES = """
view _unsafe_view reshape _reshape_alias transpose permute t expand squeeze unsqueeze select diagonal unfold
movedim swapaxes unbind alias detach lift_fresh view_as slice_copy numpy_T
clone contiguous flip roll index index_select gather repeat tile repeat_interleave pixel_shuffle
pixel_unshuffle channel_shuffle native_channel_shuffle rot90 take_along_dim _pad_circular
reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
triu tril
"""
SPLITS = "split split_with_sizes chunk unsafe_split unsafe_chunk tensor_split"
MOVEMENT: dict[str, Rule] = {
    **dict.fromkeys(MOVES.split(), moved),
    **dict.fromkeys(SPLITS.split(), split),
    "slice": sliced,
    "constant_pad_nd": padded,
    "im2col": patches,
    **dict.fromkeys(("view_as_complex", "view_as_real"), as_complex),
    **dict.fromkeys(("as_strided", "as_strided_"), restrided),
    "cat": concatenated,
    "stack": concatenated,
    "copy_": copied,
    "embedding": repeated_rows,
}
