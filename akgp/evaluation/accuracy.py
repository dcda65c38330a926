"""Accuracy of a network: its logits, in PyTorch or in a runtime, and the share that is right.

The caller decides which split is measured. N: images, C: classes.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

from akgp.data.batches import BatchSource
from akgp.models.eval_mode import eval_mode
from akgp.models.memory_format import format_of
from akgp.models.top1 import is_right
from akgp.runtimes import Runtime, runtime_for


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    source: BatchSource,
    *,
    device: torch.device | str,
    batch_size: int = 256,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """The logits of every image in order, float32 [N, C] on the CPU, in eval mode and fp32.

    The network is moved to `device`, and its modules keep their modes. With `world` workers only the rows of
    this worker's images are filled, the others are zero: the sum over all workers is complete.

    Raises:
        ValueError: no image.
    """
    if not len(source):
        raise ValueError("images are empty: there is nothing to predict")
    rows: Tensor | None = None  # the first batch shows how many classes there are
    channels_last = format_of(model) is torch.channels_last
    batches = source.to(device).ordered(
        batch_size=batch_size, rank=rank, world=world, channels_last=channels_last
    )
    with eval_mode(model.to(device), fused_attention=True):
        for batch in batches:
            logits = model(batch.inputs).float().cpu()
            if rows is None:
                rows = torch.zeros(len(source), logits.shape[1])
            rows[batch.index.cpu()] = logits
    if rows is None:
        raise ValueError(f"worker {rank} of {world} has none of the {len(source)} images; use fewer workers")
    return rows


def runtime_logits(
    path: str | Path,
    source: BatchSource,
    *,
    threads: int,
    batch_size: int = 256,
    runtime: Runtime | None = None,
) -> Tensor:
    """The logits of every image in order, float32 [N, C], by a runtime on `threads` CPU threads.

    Args:
        path: a network's file, with one input [N, channels, H, W] and one output [N, C].
        batch_size: images a run; fewer where the network takes fewer.
        runtime: None: the one for this kind of file.

    Raises:
        GraphError: the runtime cannot load or run it.
    """
    with closing((runtime or runtime_for(path)).load(Path(path), threads)) as network:
        size = min(batch_size, network.largest_batch or batch_size)
        rows = [
            torch.from_numpy(network.run(batch.inputs.numpy()))
            for batch in source.to("cpu").ordered(batch_size=size)
        ]
    return torch.cat(rows)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's (top-1), %.

    Args:
        logits: [N, C]; a tie goes to the lowest class.
        labels: int64 [N].

    Raises:
        ValueError: other shapes, or no image.
    """
    return 100 * float(_right(logits, labels).mean())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of each one's `accuracy`, %: rare classes count as much as others."""
    right = _right(logits, labels)
    return 100 * float(torch.stack([right[labels == k].mean() for k in labels.unique()]).mean())


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 for each image that is classified as its label, else 0: float64 [N]."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits must be [N, C] and labels [N] with N > 0, "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    return is_right(logits, labels.to(logits.device)).double()
