"""Networks in wrappers that hide their layers: they are refused with the way to the network inside."""

from __future__ import annotations

import torch
from torch import nn


def why_wrapped(model: nn.Module) -> str | None:
    """What `model` is if not a plain network, and what to give in its place; else None."""
    kind = type(model)
    if isinstance(model, torch.jit.ScriptModule):
        return "is scripted or traced (torch.jit): give the network that it was made from"
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return f"is wrapped in {kind.__name__}: give its .module"
    if kind.__module__.startswith("torch._dynamo"):
        return "is compiled (torch.compile): give the network itself; teacher.compile compiles it"
    return None
