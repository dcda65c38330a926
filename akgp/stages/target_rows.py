"""The int8 network in the formats of `evaluate.targets`: each measured, the C library by its memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from akgp import __version__, artifacts
from akgp.data import BatchSource, IndexedSource
from akgp.deployment.agreement import Oracle, compare, oracle
from akgp.deployment.measurement import measure
from akgp.deployment.package import MODEL
from akgp.deployment.targets import Int8File, chosen
from akgp.deployment.timing_twin import timing_twin
from akgp.evaluation import accuracy
from akgp.microcontroller.export import export
from akgp.microcontroller.report import figures
from akgp.workspace import Task

C = "c"


def measured(
    task: Task, source: BatchSource, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """A row for each format (akgp.reporting.targets), and what the C library takes, if it is one of them.

    Args:
        source: the test split.
        folder: receives what is written.
    """
    params, seed = task.params.evaluate, task.params.seed
    if not params.targets:
        return [], None
    assert isinstance(source, IndexedSource)
    network = Int8File(task.workspace.int8 / MODEL)
    exact, rows = oracle(network, source), []
    targets = chosen([name for name in params.targets if name != C])
    if targets:
        model = artifacts.load(task.workspace.dense(task.params.student))
        dense = timing_twin(model, network.description.input.shape, folder)
    for target in targets:
        place = folder / target.name
        place.mkdir()
        file = target.write(network, place)
        rows.append(measure(network, target, file, source, exact, params, seed, dense).as_row())
    if C not in params.targets:
        return rows, None
    taken = figures(*export(network.path, folder / C, cores=params.cores))
    return [*rows, c_row(exact, source, taken["flash"])], taken


def check_writable(file: Path, targets: Sequence[str]) -> None:
    """Try to write an int8 file, its preprocessing beside it, in these formats; raises as they do."""
    with tempfile.TemporaryDirectory() as folder:
        for target in chosen([name for name in targets if name != C]):
            target.write(Int8File(file), Path(folder))
        if C in targets:
            export(file, Path(folder) / C)


def c_row(exact: Oracle, source: IndexedSource, flash: int) -> dict[str, Any]:
    """The C library's row: writing it proved that its logits are the oracle's; boards differ in speed."""
    agreement, _ = compare(exact.logits, exact.logits)
    return {
        "target": C,
        "runtime": "C99, proven equal to the oracle by akgp",
        "version": __version__,
        "top1": accuracy(exact.logits, source.labels),
        "agreement": vars(agreement),
        "bytes": flash,
        "latency_ms": None,
        "against_float": None,
        "against_dense": None,
    }
