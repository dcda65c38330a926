"""A training that resumes after a kill, on the device there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from akgp.io.atomic import atomic_file
from akgp.params import Training
from akgp.training import Epoch
from experiments.weighting.design import Design


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fitting(params: Training, design: Design) -> Training:
    """`params` as they are fastest here: networks so small wait for their kernels to be launched on a GPU."""
    gpu = device().type == "cuda"
    return params.model_copy(update={"cuda_graphs": gpu, "channels_last": gpu or design.channels_last})


def finished(training: Callable[[dict[str, Any] | None], Iterator[Epoch]], checkpoint: Path) -> Epoch:
    """The last epoch of a training, whose epochs are written to `checkpoint` until it has ended.

    Args:
        training: from the state of an earlier epoch, or None.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    last: Epoch | None = None
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device(), weights_only=True)
        last = Epoch(saved["row"], saved["state"])
    for epoch in training(last.state if last else None):
        last = epoch
        with atomic_file(checkpoint) as beside:
            torch.save(vars(epoch), beside)
    checkpoint.unlink()
    assert last is not None
    return last
