"""Normalisations: per channel, which pass units on, and over channels, which keep the dense layout."""

from __future__ import annotations

from torch import Tensor

from akgp.pruning.coupling.marks import Marks, constant, shrink, tidy, unknown, varying
from akgp.pruning.coupling.rules.call import Call, Result, Rule
from akgp.pruning.coupling.rules.elementwise import merge


def _affine(call: Call, tensors: list[Tensor | None], layers: list[Tensor], out: Tensor, dims: range) -> None:
    """Unite the vectors γ, β and statistics with the channels, which lie along `dims` of the output."""
    for tensor in tensors:
        marks = call.marks_of(tensor) if isinstance(tensor, Tensor) else None
        for ids in marks.layers if marks else ():
            shape = [1] * out.ndim
            shape[dims.start : dims.stop] = ids.shape
            wide = ids.reshape(shape).expand(out.shape)
            if any(set(varying(each)) & set(varying(wide)) for each in layers):
                merge(call, layers, wide)
            else:
                call.units.block(ids, f"{call.where} has as many values as channels that stay")


def batch_norm(call: Call) -> Result:
    """γ·(x − μ)/σ + β of each channel: γ, β, μ and σ go with it."""
    source, weight, bias, mean, variance = call.args[:5]
    marks, out = call.marks_of(source), call.outputs[0]
    layers = list(marks.layers) if marks else []
    if marks is not None and marks.weight:  # weight standardisation: statistics of each filter
        for ids in [each for each in layers if varying(each) != (1,)]:
            call.units.block(ids, f"{call.where} computes with the whole weight")
        layers = [each for each in layers if varying(each) == (1,)]
    _affine(call, [weight, bias, mean, variance], layers, out, range(1, 2))
    training = bool(call.arg(5, "training", False)) and "no_training" not in call.name
    if not layers:
        return []
    dead = constant(out, 0)
    if weight is None or call.marks_of(weight) is None:
        eps = next(each for each in reversed(call.args) if isinstance(each, float))
        dead = unknown(out) if training else _standardised(marks, out, mean, variance, eps)
        if training and marks is not None and not shrink(marks.dead).any():
            dead = constant(out, 0)
    return [Marks(tuple(layers), dead, marks is not None and marks.weight)]


def _standardised(marks: Marks | None, out: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """What a channel of zeros is after the standardisation by running statistics."""
    assert marks is not None
    shape = [1, -1, *[1] * (out.ndim - 2)]
    value = (shrink(marks.dead) - mean.reshape(shape)) / (variance.reshape(shape) + eps).sqrt()
    return tidy(value.expand(out.shape))


def layer_norm(call: Call) -> Result:
    """Statistics over the last dimensions: units there stay in place, so that zeros count as they did."""
    source, shape, weight, bias = call.args[:4]
    first = source.ndim - len(shape)
    return _mixing(call, source, [weight, bias], range(first, source.ndim), set(range(first, source.ndim)))


def group_norm(call: Call) -> Result:
    """Statistics over groups of channels: as layer_norm."""
    source, weight, bias = call.args[:3]
    return _mixing(call, source, [weight, bias], range(1, 2), set(range(1, source.ndim)))


def _mixing(call: Call, source: Tensor, affine: list[Tensor | None], dims: range, mixed: set[int]) -> Result:
    marks, out = call.marks_of(source), call.outputs[0]
    layers = list(marks.layers) if marks else []
    _affine(call, affine, layers, out, dims)
    if marks is None or not layers:
        return []
    for ids in layers:
        if mixed & set(varying(ids)):
            call.units.hold(ids, f"{call.where} is over the channels")
    given = all(each is not None for each in affine)
    dead = constant(out, 0) if given else unknown(out)
    if not any(mixed & set(varying(ids)) for ids in layers) and not given:
        dead = tidy(call.on_dead())
    return [Marks(tuple(layers), dead)]


def weight_norm(call: Call) -> Result:
    """g·v/‖v‖: without its g a filter is zero; ‖v‖ is over the columns, which therefore stay."""
    direction, magnitude = call.args[:2]
    marks, scale, out = call.marks_of(direction), call.marks_of(magnitude), call.outputs[0]
    if marks is None or scale is None:
        return None
    layers: list[Tensor] = []
    rows = {d for each in scale.layers for d in varying(each)}
    for ids in marks.layers:
        if set(varying(ids)) <= rows:
            layers.append(ids)
        else:
            call.units.block(ids, f"{call.where} is over them")
    for ids in scale.layers:
        merge(call, layers, ids.expand(out.shape))
    return [Marks(tuple(layers), constant(out, 0), True)]


NORMS: dict[str, Rule] = {
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "batch_norm",
                     "_native_batch_norm_legit_no_training", "miopen_batch_norm"), batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
}  # fmt: skip
