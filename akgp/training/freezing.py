"""Modules that a training leaves as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn

from akgp.training.errors import TrainingError


@contextlib.contextmanager
def frozen(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Turn off the gradients of the modules of these names inside the block.

    Their caller keeps them in eval mode, so that the running statistics of their norms stay too.

    Raises:
        TrainingError: there is no such module, or no parameter is left to train.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            like = ", ".join(list(modules)[1:4])
            raise TrainingError(f"freeze: {name!r} is not a module of the network, such as {like}")
    stopped = [p for name in names for p in modules[name].parameters() if p.requires_grad]
    for parameter in stopped:
        parameter.requires_grad_(False)
    try:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            if names:
                raise TrainingError(f"freeze: {', '.join(names)} leave no parameter of the network to train")
            raise TrainingError("there is nothing to train: requires_grad is False for every parameter")
        yield
    finally:
        for parameter in stopped:
            parameter.requires_grad_(True)
