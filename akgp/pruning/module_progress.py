"""Counts the modules of a network that ran, for a person who waits while it is traced or compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from akgp.timed_search import counted


@contextlib.contextmanager
def module_progress(network: nn.Module) -> Iterator[None]:
    """Say, while `network` runs in this block, how many of its modules without children did."""
    leaves = [module for module in network.modules() if next(module.children(), None) is None]
    done: set[int] = set()

    def ran(module: nn.Module, _inputs: Any, _output: Any) -> None:
        done.add(id(module))
        counted(len(done), len(leaves), "modules")

    handles = [module.register_forward_hook(ran) for module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
