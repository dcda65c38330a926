"""Attention whose heads may be narrower than its input: for modules whose code fixes that width.

`nn.MultiheadAttention` and torchvision's `ShiftedWindowAttention` derive the width of a head from that of
their input, and call functions with their weights. A *narrowable* one computes the same, but takes the width
from its weights, calls its projections as layers, and keeps the scale of the dense head, so that the
queries, keys and values of all heads can be cut. It is a subclass and keeps the parameters' names, except
for `in_proj_weight` and `in_proj_bias`, which become those of a layer `in_proj`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOWS = "torchvision.models.swin_transformer"
ADDED = "in_proj"
"""The layer that a narrowable MultiheadAttention has beyond those of the original."""


def narrowable(module: Any) -> type[nn.Module] | None:
    """The class of the narrowable module that computes the same, if there is one."""
    kind = type(module)
    if kind is nn.MultiheadAttention:
        plain = module.bias_k is None and not module.add_zero_attn and module.in_proj_weight is not None
        return NarrowableMultihead if plain else None
    if kind.__module__ == WINDOWS and kind.__name__.startswith("ShiftedWindowAttention"):
        from akgp.models.window_attention import NARROWABLE  # imports torchvision

        return NARROWABLE.get(kind)
    return None


def make_narrowable(module: Any) -> None:
    """Change the class of a module for which there is a narrowable one, in place."""
    kind = narrowable(module)
    assert kind is not None
    if kind is NarrowableMultihead:
        weight, bias = module.in_proj_weight, module.in_proj_bias
        del module.in_proj_weight, module.in_proj_bias
        module.register_parameter("in_proj_weight", None)
        module.register_parameter("in_proj_bias", None)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias
        after = module._modules.pop("out_proj")
        module.add_module(ADDED, layer.train(module.training))
        module.add_module("out_proj", after)
        heads, width = module.num_heads, module.embed_dim
    else:
        heads, width = module.num_heads, module.proj.in_features
    module.scale = (width // heads) ** -0.5
    module.__class__ = kind


def original_kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the one that a narrowable module had before."""
    kind = type(module)
    return getattr(kind, "narrowable_of", kind)


def is_narrowable(module: nn.Module) -> bool:
    """Whether `make_narrowable` has been called on it."""
    return hasattr(type(module), "narrowable_of")


def narrowable_names(model: nn.Module) -> list[str]:
    """The names of a network's narrowable modules."""
    return [name for name, module in model.named_modules() if is_narrowable(module)]


def given_name(model: nn.Module, name: str) -> str:
    """The name of a layer's weight or layer in the network that `model` was before `make_narrowable`."""
    parent, _, leaf = name.rpartition(".")
    added = leaf == ADDED and is_narrowable(model.get_submodule(parent))
    return f"{name}_weight" if added else name


class NarrowableMultihead(nn.MultiheadAttention):
    """`nn.MultiheadAttention` of one sequence with itself; see its documentation for the arguments."""

    narrowable_of = nn.MultiheadAttention
    in_proj: nn.Linear
    scale: float

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """As the original; is_causal, a hint that attn_mask is causal, makes no difference.

        Raises:
            ValueError: query, key and value are different tensors.
        """
        if query is not key or key is not value:
            raise ValueError("this pruned attention takes one tensor as query, key and value")
        transposed = query.ndim == 3 and not self.batch_first
        x = query.transpose(0, 1) if transposed else query  # [.., T, C]
        qkv = self.in_proj(x)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).transpose(-4, -2).unbind(-3)  # [.., heads, T, d]
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


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add: -inf where a boolean one is True."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
