"""data: read the source, split it, write the splits. It only reads and writes, so it is no Ray job."""

from __future__ import annotations

import sys

from tqdm import tqdm

from akgp.data import prepare
from akgp.io.atomic import atomic_directory
from akgp.io.terminal import UnbrokenStderr
from akgp.workspace import Task


def run(task: Task) -> None:
    """Prepare the data, with a progress bar."""
    bar = tqdm(
        desc=f"{task.label:<18}",
        unit=" images",
        file=UnbrokenStderr(),
        bar_format="{desc}{n_fmt} images [{elapsed}, {rate_fmt}]",
        mininterval=0.1 if sys.stderr.isatty() else 10,  # in a log every state of the bar stays
    )
    with (
        bar,
        atomic_directory(task.workspace.data) as new,
    ):
        prepare(task.params.data, task.params.seed, new, bar.update)
