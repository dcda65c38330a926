"""The int8 network in the formats of `evaluate.targets`: each measured, the C library by its memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
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
from akgp.io.errors import message
from akgp.microcontroller.emulator import EmulationError
from akgp.microcontroller.export import export
from akgp.microcontroller.report import figures
from akgp.params import Evaluate
from akgp.quantization import QuantizationError
from akgp.runtimes import GraphError
from akgp.workspace import Task

C = "c"


def measured(
    task: Task, source: BatchSource, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[str]]:
    """A row for each format (akgp.reporting.targets), and what the C library takes, if it is one of them.

    What cannot be written or run after all costs its own row alone: a sentence for each says why.

    Args:
        source: the test split.
        folder: receives what is written.
    """
    params, seed = task.params.evaluate, task.params.seed
    if not params.targets:
        return [], None, []
    assert isinstance(source, IndexedSource)
    network = Int8File(task.workspace.int8 / MODEL)
    rows: list[dict[str, Any]] = []
    taken, refused = None, list[str]()
    with _refusal(", ".join(params.targets), refused):  # of what no format can hold
        exact = oracle(network, source)
        targets = chosen([name for name in params.targets if name != C])
        if targets:
            model = artifacts.load(task.workspace.dense(task.params.student))
            dense = timing_twin(model, network.description.input.shape, folder)
        for target in targets:
            place = folder / target.name
            place.mkdir()
            with _refusal(target.name, refused):
                file = target.write(network, place)
                rows.append(measure(network, target, file, source, exact, params, seed, dense).as_row())
        if C in params.targets:
            with _refusal(C, refused):
                taken = figures(*export(network.path, folder / C, cores=params.cores))
                rows.append(c_row(exact, source, taken["flash"]))
    return rows, taken, refused


@contextlib.contextmanager
def _refusal(target: str, refused: list[str]) -> Iterator[None]:
    """Note why a format cannot be written or run."""
    try:
        yield
    except (QuantizationError, GraphError, EmulationError) as error:
        refused.append(f"evaluate.targets: {target}: not measured: {message(error)}")


def check_writable(file: Path, params: Evaluate) -> None:
    """Try to write an int8 file, its preprocessing beside it, in the formats of `targets`, and to load it.

    Raises:
        QuantizationError, GraphError, EmulationError: one cannot be written or loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        for target in chosen([name for name in params.targets if name != C]):
            written = target.write(Int8File(file), Path(folder))
            target.runtime.load(written, params.threads).close()
        if C in params.targets:
            export(file, Path(folder) / C, cores=params.cores)


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
