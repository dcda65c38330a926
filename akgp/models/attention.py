"""Attention whose heads may be narrower than its input: for modules whose code fixes that width.

`nn.MultiheadAttention` and torchvision's `ShiftedWindowAttention` derive the width of a head from that of
their input, and call functions with their weights. A *narrowable* one computes the same, but takes the width
from its weights, calls its projections as layers, and keeps the scale of the dense head, so that the
queries, keys and values of all heads can be cut. It is a subclass and keeps the parameters' names, except
for `in_proj_weight` and `in_proj_bias`, which become those of a layer `in_proj`; of an attention that is
called with several sequences, of layers `q_proj`, `k_proj` and `v_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOWS = "torchvision.models.swin_transformer"


def narrowable(module: Any, several: bool = False) -> type[nn.Module] | None:
    """The class of the narrowable module that computes the same, if there is one.

    Args:
        several: it is called with different tensors as query, key and value.
    """
    kind = type(module)
    if kind is nn.MultiheadAttention:
        if module.bias_k is not None or module.add_zero_attn:
            return None
        return NarrowableCross if several or module.in_proj_weight is None else NarrowableMultihead
    if kind.__module__ == WINDOWS and kind.__name__.startswith("ShiftedWindowAttention"):
        from akgp.models.window_attention import NARROWABLE  # imports torchvision

        return NARROWABLE.get(kind)
    return None


def make_narrowable(module: Any, several: bool = False) -> None:
    """Change the class of a module for which there is a narrowable one, in place; see `narrowable`."""
    kind = narrowable(module, several)
    assert kind is not None
    if issubclass(kind, nn.MultiheadAttention):
        after = module._modules.pop("out_proj")
        for name, layer in _projections(module, kind).items():
            module.add_module(name, layer.train(module.training))
        for name in PROJECTIONS:
            delattr(module, name)
            module.register_parameter(name, None)
        module.add_module("out_proj", after)
        heads, width = module.num_heads, module.embed_dim
    else:
        heads, width = module.num_heads, module.proj.in_features
    module.scale = (width // heads) ** -0.5
    module.__class__ = kind


def make_narrowable_in(model: nn.Module, name: str, several: bool = False) -> None:
    """`make_narrowable` for the module of this name, in a network whose encoders may read its weights."""
    attention = model.get_submodule(name)
    make_narrowable(attention, several)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(each is attention for each in module.modules()):
            # For nested tensors it would read the attention's own weights, which now are those of layers.
            module.use_nested_tensor = False


PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")


def _projections(module: Any, kind: type[nn.Module]) -> Mapping[str, nn.Linear]:
    """The layers of a narrowable MultiheadAttention, by name, that have the parameters of the original."""
    weight, bias = module.in_proj_weight, module.in_proj_bias
    if kind is NarrowableMultihead:
        return {"in_proj": _layer(weight, bias)}
    separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = separate if weight is None else _thirds(weight)
    biases = (None, None, None) if bias is None else _thirds(bias)
    return dict(zip(NarrowableCross.added, map(_layer, weights, biases), strict=True))


def _thirds(parameter: nn.Parameter) -> list[nn.Parameter]:
    parts = parameter.detach().chunk(3)
    return [nn.Parameter(each.clone(), parameter.requires_grad) for each in parts]


def _layer(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    return layer


def original_kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the one that a narrowable module had before."""
    kind = type(module)
    return getattr(kind, "narrowable_of", kind)


def is_narrowable(module: nn.Module) -> bool:
    """Whether `make_narrowable` has been called on it."""
    return hasattr(type(module), "narrowable_of")


def takes_several(module: nn.Module) -> bool:
    """Whether it is a narrowable module for different tensors as query, key and value."""
    return isinstance(module, NarrowableCross)


def narrowable_names(model: nn.Module) -> list[str]:
    """The names of a network's narrowable modules."""
    return [name for name, module in model.named_modules() if is_narrowable(module)]


def added_layers(module: nn.Module) -> tuple[str, ...]:
    """The names of layers that a narrowable module has beyond those of the original."""
    return getattr(type(module), "added", ())


def given_name(model: nn.Module, name: str) -> str:
    """The name of a layer's weight or layer in the network that `model` was before `make_narrowable`.

    Of a weight that was one for queries, keys and values of several sequences, that of each part, as torch
    names them where they are apart: `q_proj_weight`.
    """
    parent, _, leaf = name.rpartition(".")
    return f"{name}_weight" if leaf in added_layers(model.get_submodule(parent)) else name


def weight_names(name: str) -> list[str]:
    """What `given_name` may call the layers of the MultiheadAttention `name`."""
    return [f"{name}.{each}_weight" for each in (*NarrowableMultihead.added, *NarrowableCross.added)]


class _Narrowable(nn.MultiheadAttention):
    """`nn.MultiheadAttention`; see its documentation for the arguments."""

    narrowable_of = nn.MultiheadAttention
    scale: float

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [.., T, heads · d] of sequences [.., T, C]."""
        raise NotImplementedError

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """As the original; is_causal, a hint that attn_mask is causal, makes no difference."""
        transposed = query.ndim == 3 and not self.batch_first
        given = [each.transpose(0, 1) for each in (query, key, value)] if transposed else [query, key, value]
        if query is key and key is value:
            given = [given[0]] * 3
        q, k, v = (
            each.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for each in self._projected(*given)
        )  # [.., heads, T, d]
        bias = self._bias(q, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.dropout((scores if bias is None else scores + bias).softmax(-1), dropout)
            out = weights @ v
            weights = weights.mean(-3) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=self.scale)
        out = self.out_proj(out.transpose(-3, -2).flatten(-2))
        return (out.transpose(0, 1) if transposed else out), weights

    def _bias(self, q: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What both masks add to the scores of q [.., heads, T, d]."""
        padding, mask = (_additive(each, q) for each in (padding, mask))
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(*q.shape[:-2], *mask.shape[-2:])
        if padding is not None:
            padding = padding[..., None, None, :]
        return mask if padding is None else padding if mask is None else mask + padding


class NarrowableMultihead(_Narrowable):
    """Of one sequence with itself."""

    added: ClassVar = ("in_proj",)
    in_proj: nn.Linear

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query is not key or key is not value:
            raise ValueError("this pruned attention takes one tensor as query, key and value")
        q, k, v = self.in_proj(query).chunk(3, -1)
        return q, k, v


class NarrowableCross(_Narrowable):
    """Of several sequences, such as queries with what an encoder remembers."""

    added: ClassVar = ("q_proj", "k_proj", "v_proj")
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(query), self.k_proj(key), self.v_proj(value)


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add: -inf where a boolean one is True."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
