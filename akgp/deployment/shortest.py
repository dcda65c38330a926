"""The time of files for one image where nothing disturbs them: of each the shortest of many short blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from akgp.evaluation.latency import Block, clock
from akgp.runtimes import Runtime

LOADS, ROUNDS = 6, 40
"""How often networks are loaded, since their places in memory make some per cent, and rounds of each."""
WARM_UP_SECONDS = 0.02
BLOCK_SECONDS = 0.003


def shortest_ms(files: Sequence[Path], shape: Sequence[int], runtime: Runtime, threads: int) -> list[float]:
    """Milliseconds of each file, timed in turn with the others.

    Of each the shortest block counts, since other processes only make one longer. What slows the machine down
    slows all of them down: their ratios are what to trust.

    Args:
        shape: of an image, (channels, H, W).

    Raises:
        GraphError: the runtime cannot load or run a file.
    """
    sample = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    rounds: list[list[float]] = []
    for _ in range(LOADS):
        with ExitStack() as loaded:
            blocks = []
            for file in files:
                network = loaded.enter_context(closing(runtime.load(file, threads)))
                blocks.append(Block(network, sample, clock(runtime, threads), BLOCK_SECONDS))
                blocks[-1].warm_up(WARM_UP_SECONDS)
            rounds += ([block.seconds(first=True) for block in blocks] for _ in range(ROUNDS))
    return [1000 * min(times) for times in zip(*rounds, strict=True)]
