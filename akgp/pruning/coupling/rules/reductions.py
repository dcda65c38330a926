"""Operations over some dimensions: sums, means, pooling, softmax, and what sorts or accumulates."""

from __future__ import annotations

from torch import Tensor

from akgp.pruning.coupling.marks import Marks, constant, shrink, tidy, unknown, varying
from akgp.pruning.coupling.rules.call import Call, Result, Rule
from akgp.pruning.coupling.rules.elementwise import merge

# Zeros among their operands change none of these, so that nothing is lost with units that are zero.
SUMS = ("sum", "linalg_vector_norm", "norm", "nansum", "frobenius_norm")
TIES = ("amax", "amin", "max", "min")
ALIKE = ("var_mean", "std_mean")
"""Their two outputs have the same units."""


def reduced(call: Call) -> Result:
    """Reduce over dimensions: units along them are read there, those along others pass."""
    source = call.tensors[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    dims = _dims(call, source)
    layers = []
    for ids in marks.layers:
        inside = set(varying(ids)) & dims
        if inside and call.name in TIES and set(varying(ids)) - dims:
            # Maxout: the largest of some channels is zero where all of them are.
            for d in inside:
                call.units.unite(ids, ids.narrow(d, 0, 1), call.where)
        elif inside:
            _read(call, marks, ids)
            continue
        layers.append(ids)
    kept = [_without(ids, dims, out) for ids in layers for out in call.outputs[:1]]
    out = call.outputs[0]
    dead = tidy(call.on_dead()) if layers or marks.weight else unknown(out)
    dead = dead.to(out.dtype).expand(out.shape) if dead.ndim == out.ndim else unknown(out)
    first = Marks(tuple(each for each in kept if varying(each)), dead, marks.weight)
    return [first] * (2 if call.name in ALIKE else 1) if first.layers or marks.weight else []


def _read(call: Call, marks: Marks, ids: Tensor) -> None:
    """Units that a reduction reads: a sum of zeros lacks nothing, a mean has another divisor."""
    if marks.weight:  # only the rows of a weight are zero; columns of removed inputs are not
        reason = f"{call.where} computes with the whole weight"
        (call.units.read_whole if call.name in SUMS else call.units.block)(ids, reason)
    elif call.name not in SUMS or shrink(marks.dead).any():
        call.units.hold(ids, f"{call.where} is over the channels")


def _dims(call: Call, source: Tensor) -> set[int]:
    dims = call.arg(2, "dim") if call.name in ("linalg_vector_norm", "norm") else call.arg(1, "dim")
    if dims is None or dims == []:
        return set(range(source.ndim))
    return {d % max(1, source.ndim) for d in ([dims] if isinstance(dims, int) else dims)}


def _without(ids: Tensor, dims: set[int], out: Tensor) -> Tensor:
    """Ids of a reduced tensor, with its dimensions kept at size 1 or dropped, as the output has them."""
    for d in sorted(dims, reverse=True):
        ids = ids.narrow(d, 0, 1) if out.ndim == ids.ndim or len(dims) == 0 else ids
    if out.ndim < ids.ndim:
        for d in sorted(dims, reverse=True):
            ids = ids.select(d, 0)
    return ids.expand(out.shape)


def pooled(call: Call) -> Result:
    """Pooling and resizing over the last dimensions; units pass where they do not vary along these."""
    source, out = call.tensors[0], call.outputs[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    layers = []
    first = 2 if source.ndim > 2 else source.ndim - 1
    if "1d" in call.name:
        first = source.ndim - 1
    for ids in marks.layers:
        if any(d >= first for d in varying(ids)):
            call.units.hold(ids, f"{call.where} is over the channels")
        else:
            small = ids
            for d in range(first, ids.ndim):
                small = small.narrow(d, 0, 1)
            layers.append(small.expand(out.shape))
    if not layers:
        return []
    dead = constant(out, 0) if not shrink(marks.dead).any() else tidy(call.on_dead())
    return [Marks(tuple(layers), dead, marks.weight)]


def scattered(call: Call) -> Result:
    """scatter_add, index_add: positions are summed along a dimension; the units of others pass."""
    target, dim, _, source = call.args[:4]
    out, dim, by = call.outputs[0], dim % call.args[0].ndim, call.arg(4, "reduce", "sum")
    both = [(each, call.marks_of(each)) for each in (target, source)]
    layers: list[Tensor] = []
    for tensor, marks in both:
        for ids in marks.layers if marks else ():
            alike = all(tensor.shape[d] == out.shape[d] for d in varying(ids))
            if dim in varying(ids) or not alike or (marks and marks.weight) or by == "prod":
                return None
            small = ids
            for d in set(range(ids.ndim)) - set(varying(ids)):
                small = small.narrow(d, 0, 1)
            merge(call, layers, small.expand(out.shape))
    zero = not any((tensor if marks is None else shrink(marks.dead)).any() for tensor, marks in both)
    return [Marks(tuple(layers), constant(out, 0) if zero else unknown(out))]


def transformed(call: Call) -> Result:
    """A Fourier transform over some dimensions: zeros stay zeros where units lie along others."""
    source, dims, out = call.args[0], call.args[1], call.outputs[0]
    marks = call.marks_of(source)
    if marks is None or marks.weight:
        return None
    layers = []
    for ids in marks.layers:
        if {d % ids.ndim for d in dims} & set(varying(ids)):
            call.units.hold(ids, f"{call.where} is over the channels")
        else:
            layers.append(shrink(ids).expand(out.shape))
    zero = not shrink(marks.dead).any()
    return [Marks(tuple(layers), constant(out, 0) if zero else constant(out, 1))]


def normalised(call: Call) -> Result:
    """softmax, cumsum, sort along one dimension: units along it are mixed there."""
    source, out = call.tensors[0], call.outputs[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    dim = call.arg(1, "dim", -1) % source.ndim if isinstance(call.arg(1, "dim", -1), int) else -1
    if call.name == "topk":
        dim = call.arg(2, "dim", -1) % source.ndim
    layers = []
    for ids in marks.layers:
        if dim not in varying(ids):
            layers.append(ids)
        elif marks.weight:
            call.units.block(ids, f"{call.where} computes with the whole weight")
        elif set(varying(ids)) - {dim}:
            # Attention over branches: those of a channel go together.
            first = ids.narrow(dim, 0, 1)
            call.units.unite(ids, first, call.where)
            layers.append(first.expand(ids.shape))
        else:
            call.units.hold(ids, f"{call.where} is over the channels")
    if out.shape != source.shape:
        return None if layers else []
    if not layers and not marks.weight:
        return []
    dead = tidy(call.on_dead().to(out.dtype))
    return [Marks(tuple(layers), dead, marks.weight)]


def glu(call: Call) -> Result:
    """The first half, gated by the second: units of both halves go together."""
    source, out = call.args[0], call.outputs[0]
    marks = call.marks_of(source)
    if marks is None:
        return None
    dim = call.arg(1, "dim", -1) % source.ndim
    layers = []
    for ids in marks.layers:
        if dim in varying(ids):
            half = ids.shape[dim] // 2
            one, other = ids.narrow(dim, 0, half), ids.narrow(dim, half, half)
            call.units.unite(one, other, call.where)
            ids = one
        layers.append(ids.expand(out.shape))
    return Marks(tuple(layers), tidy(call.on_dead()), marks.weight)


REDUCED = """
mean nanmean var std var_mean std_mean prod logsumexp any all argmax argmin median
"""
POOLED = """
avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
max_pool3d_with_indices _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d mkldnn_max_pool2d
fractional_max_pool2d
upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d
upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
NORMALISED = "_softmax _log_softmax softmax log_softmax cumsum cumprod sort topk"
SCATTERED = "scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_"
REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys((*SUMS, *TIES, *REDUCED.split()), reduced),
    **dict.fromkeys(POOLED.split(), pooled),
    **dict.fromkeys(NORMALISED.split(), normalised),
    **dict.fromkeys(SCATTERED.split(), scattered),
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c"), transformed),
    "glu": glu,
}
