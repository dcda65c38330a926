"""Random inputs on which a network shows what each of its channels does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from akgp.models.inputs import Inputs


def noise_like(example_input: Inputs, batch: int, exact: bool) -> list[Inputs]:
    """Inputs to try: normal ones, then positive ones for networks that take logarithms or roots.

    Integers, such as tokens, are first drawn from the example's range, which is taken to be two numbers wide
    at least; then they are the example's own. A tensor without dimensions stays as it is.

    Args:
        batch: how many inputs, of the example's own number or, if that is one, of two.
        exact: in float64.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(floats: Callable[..., Tensor], integers: Callable[..., Tensor], given: Tensor) -> Tensor:
        size = batch if example_input.is_batched(given) else len(given) if given.ndim else 0
        shape = torch.Size([size, *given.shape[1:]]) if given.ndim else given.shape
        if given.is_floating_point():
            values = floats(shape, generator=generator) if given.ndim else given
            return values.to(given.device, torch.float64 if exact else given.dtype)
        return integers(given, shape, generator) if given.ndim else given

    return [
        example_input.map(partial(drawn, torch.randn, _integers)),
        example_input.map(partial(drawn, torch.rand, _own)),
    ]


def _integers(given: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if given.is_complex():
        return _own(given, shape, generator)
    low, high = int(given.min()), int(given.max())
    values = torch.randint(low, max(high, low + 1) + 1, shape, generator=generator)
    return values.to(given.device, given.dtype)


def _own(given: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    return given.expand(shape) if shape != given.shape else given
