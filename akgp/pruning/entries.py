"""The entries of one parameter that a cut leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from akgp.pruning.coupling.marks import shrink, tidy, varying


class Entries:
    """The entries of a parameter whose units stay.

    Args:
        layers: ids of the parameter, one tensor for each dimension that has units.
        keeps: whether an id stays [count].

    Raises:
        ValueError: they would not form a rectangle.
    """

    def __init__(self, name: str, tensor: Tensor, layers: tuple[Tensor, ...], keeps: Tensor) -> None:
        self.name, self.shape = name, tensor.shape
        self.lines = {
            d: keeps[shrink(ids).reshape(-1)].nonzero().flatten()
            for ids in layers
            if len(varying(ids)) == 1
            for d in varying(ids)
        }
        self.mask: Tensor | None = None
        if any(
            len(varying(ids)) > 1 for ids in layers
        ):  # the groups of a convolution keep columns of their own
            mask = torch.ones([1] * tensor.ndim, dtype=torch.bool)
            for ids in layers:
                mask = mask & keeps[shrink(ids)]
            self.mask = mask
            rows, columns = mask.flatten(1).any(1).sum(), mask.sum(1).max()
            self.shape = torch.Size([int(rows), int(columns), *tensor.shape[2:]])
            if self.shape.numel() != int(mask.expand(tensor.shape).sum()):
                raise ValueError(f"{name} would lose different numbers of columns in its groups")
        else:
            self.shape = torch.Size(
                [len(self.lines[d]) if d in self.lines else s for d, s in enumerate(tensor.shape)]
            )

    def of(self, tensor: Tensor) -> Tensor:
        """The entries that stay of a tensor of the parameter's shape, in its memory format."""
        if self.shape == tensor.shape:
            return tensor
        if self.mask is not None:
            values = tensor[self.mask.expand(tensor.shape).to(tensor.device)].reshape(self.shape)
        else:
            values = tensor
            for d, index in self.lines.items():
                if len(index) < tensor.shape[d]:
                    values = values.index_select(d, index.to(tensor.device))
        if not tensor.is_contiguous():  # channels-last, or transposed: both lay their result out contiguously
            order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
            empty = torch.empty_permuted(values.shape, order, dtype=values.dtype, device=values.device)
            values = empty.copy_(values)
        return values

    def of_ids(self, ids: Tensor) -> Tensor:
        """Ids of the parameter, of the entries that stay; as expanded as before."""
        if len(varying(ids)) == 1:
            (d,) = varying(ids)
            if d in self.lines and self.mask is None:
                return shrink(ids).index_select(d, self.lines[d]).expand(self.shape)
        if self.mask is None:
            return ids
        small = shrink(ids).expand(self.mask.shape)[self.mask]
        small = small.reshape([s if m > 1 else 1 for s, m in zip(self.shape, self.mask.shape, strict=True)])
        return tidy(small.expand(self.shape))
