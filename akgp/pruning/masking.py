"""The reference for a cut: the whole network, with what is removed set to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from akgp.pruning.coupling.marks import shrink, varying
from akgp.pruning.cutting import DIRECTIONS, Removal


class Different(Exception):
    """A feature of the smaller network, the output of `layer`, is not that of the masked one."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


def mask(model: nn.Module, removed: Removal) -> list[Any]:
    """Zero the removed filters, norms and bare parameters, in place; weights that read them stay.

    Zeroing these too would hide a channel that is not zero. The ids say which norms go with a filter; hooks,
    which are returned, see to it that these norms have nothing but constants to normalise there.
    """
    coupling = removed.coupling
    reads, writes = (torch.zeros(coupling.units.count, dtype=torch.bool) for _ in range(2))
    for flags, marked in ((reads, coupling.units.columns), (writes, coupling.units.rows)):
        for ids in marked:
            flags[ids] = True
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for ids in coupling.layers.get(name, ()):
                small = shrink(ids)
                column = bool((reads[small] & ~writes[small]).all()) or len(varying(ids)) > 1
                if not column and not name.endswith(DIRECTIONS):
                    parameter.masked_fill_(~removed.alive[small].to(parameter.device), 0)
    return [
        module.register_forward_pre_hook(_require_constant(name, gone))
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and (gone := _removed_channels(name, removed)) is not None
    ]


def _removed_channels(name: str, removed: Removal) -> Tensor | None:
    layers = norm_ids(name, removed)
    gone = ~removed.alive[shrink(layers[0]).reshape(-1)] if layers else torch.zeros(0, dtype=torch.bool)
    return gone.nonzero().flatten() if gone.any() else None


def norm_ids(name: str, removed: Removal) -> tuple[Tensor, ...]:
    """The ids of a norm's channels."""
    found = (removed.coupling.layers.get(f"{name}.{leaf}") for leaf in ("weight", "running_mean"))
    return next((each for each in found if each), ())


def _require_constant(name: str, channels: Tensor) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        values = inputs[0].index_select(1, channels.to(inputs[0].device)).transpose(0, 1).flatten(1)
        if not torch.equal(values, values[:, :1].expand_as(values)):
            raise Different(name, f"normalises channels in {name} that others write too")

    return hook
