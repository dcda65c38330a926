"""Convolutions in groups: filters that read the channels of their own group alone."""

from __future__ import annotations

from torch import Tensor

from akgp.pruning.coupling.marks import Marks, along, constant, shrink, varying
from akgp.pruning.coupling.rules.call import Call, Result

IMAGES = ("convolution", "deform_conv2d")
"""Products whose outputs have their channels in dimension 1."""


def grouped(
    call: Call, source: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
) -> Result:
    out, marks, weights = call.outputs[0], call.marks_of(source), call.marks_of(weight)
    arriving = [ids for ids in (marks.layers if marks else ()) if varying(ids) == (1,)]
    if weights is None:
        for ids in arriving:
            call.units.hold(ids, call.where)
        return []
    inputs, outputs = source.shape[1], out.shape[1]
    vector = shrink(arriving[0]).reshape(-1) if arriving else None
    # One filter or several for each channel: they go with it. Weight [O, 1, ..], transposed [I, O/g, ..].
    name = call.parameter_of(weight) or ""
    if inputs == groups and (outputs == groups or not transposed) and name not in call.units.in_groups:
        rows = [ids for ids in weights.layers if varying(ids) == (0,)]
        if vector is None or not rows:
            for ids in rows:
                call.units.block(ids, f"{call.where} reads what is not removed")
            if vector is not None:
                call.units.hold(vector, call.where)
            return []
        call.units.unite(vector.repeat_interleave(outputs // groups), shrink(rows[0]).reshape(-1), call.where)
        wide = shrink(rows[0]).reshape(1, -1, *[1] * (out.ndim - 2)).expand(out.shape)
        return _with_bias(call, out, wide, bias)
    call.units.in_groups.add(name)  # a cut may leave these one input each
    return _in_groups(call, vector, weight, weights, bias, groups, transposed)


def _in_groups(
    call: Call,
    vector: Tensor | None,
    weight: Tensor,
    weights: Marks,
    bias: Tensor | None,
    groups: int,
    transposed: bool,
) -> Result:
    """Every group loses equally many inputs and equally many filters."""
    out, source = call.outputs[0], call.args[0]
    marks = call.marks_of(source)
    columns = [ids for ids in weights.layers if 1 in varying(ids)]
    name = call.parameter_of(weight)
    reason = f"{call.where} has {groups} groups"
    if transposed:
        for ids in weights.layers:
            call.units.block(ids, reason)
        if vector is not None:
            call.units.hold(vector, reason)
        return []
    if vector is not None:
        assert marks is not None
        whole = (vector > 0).all() and not shrink(marks.dead).any()
        if not columns:
            pass
        elif whole and name is not None and not call.units.is_blocked(columns[0]).any():
            _own_columns(call, vector, weight, weights, columns[0], groups)
        else:
            call.units.hold(vector, reason)
    if vector is None or name is None:
        for ids in columns:
            call.units.block(ids, reason)
    rows = [ids for ids in weights.layers if varying(ids) == (0,)]
    if not rows:
        return []
    call.units.tabulate(shrink(rows[0]).reshape(groups, -1), needed=True, reason=reason)
    wide = shrink(rows[0]).reshape(1, -1, *[1] * (out.ndim - 2)).expand(out.shape)
    return _with_bias(call, out, wide, bias)


def _own_columns(
    call: Call, vector: Tensor, weight: Tensor, weights: Marks, columns: Tensor, groups: int
) -> None:
    """Give the weight [O, I/g, ..] the ids of the inputs as columns: those of its group for each filter."""
    call.units.tabulate(vector.reshape(groups, -1), needed=True, reason=f"{call.where} has {groups} groups")
    if len(varying(columns)) > 1:  # read before, in the other mode or by another call
        call.units.unite(_table(vector, weight, groups), columns, call.where)
        return
    table = _table(vector, weight, groups).expand(weight.shape)
    layers = tuple(table if each is columns else each for each in weights.layers)
    call.replace(weight, Marks(layers, weights.dead, True))


def _table(vector: Tensor, weight: Tensor, groups: int) -> Tensor:
    table = (
        vector.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1).reshape(weight.shape[:2])
    )
    return table.reshape(*table.shape, *[1] * (weight.ndim - 2))


def _with_bias(call: Call, out: Tensor, wide: Tensor, bias: Tensor | None) -> Marks:
    added = call.marks_of(bias) if bias is not None else None
    dead = constant(out, 0)
    if added is not None:
        unite_bias(call, added, [wide], out)
    elif bias is not None:
        dead = bias.reshape(1, -1, *[1] * (out.ndim - 2)).expand(out.shape)
    return Marks((wide,), dead)


def unite_bias(call: Call, bias: Marks, layers: list[Tensor], out: Tensor) -> None:
    dim = 1 if call.name in IMAGES else out.ndim - 1
    for ids in bias.layers:
        vector = shrink(ids).reshape(-1)
        if ids.ndim > 1 or len(vector) != out.shape[dim]:
            vector = along(ids, ids.ndim - 1)[0]
        mine = [each for each in layers if dim in varying(each)]
        if mine:
            call.units.unite(along(mine[0], dim), vector, call.where)
        else:
            call.units.block(ids, f"added in {call.where} to what is not removed")
