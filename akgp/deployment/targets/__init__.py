"""The formats that an int8 network can be exported to, each with the runtime that runs it.

All are written from one int8 file, so all state the same integers, scales and zero points. To add one, write
a module here with a function `write(source, destination, kind)` and add it to TARGETS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from akgp.deployment.targets import executorch, litert, onnx_file, openvino
from akgp.deployment.targets.int8_file import Int8File, Kind, activations
from akgp.runtimes import RUNTIMES, Runtime, require_installed

__all__ = ["TARGETS", "Int8File", "Kind", "Target", "activations", "chosen", "target_of"]


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: as `akgp export --to` takes it.
        file: the name of what is written.
        writer: writes a file of a kind.
        runtime_name: in RUNTIMES, by default the target's own.
    """

    name: str
    file: str
    writer: Callable[[Int8File, Path, Kind], None]
    runtime_name: str

    @property
    def runtime(self) -> Runtime:
        return RUNTIMES[self.runtime_name]

    def write(self, source: Int8File, folder: Path, kind: Kind = "int8") -> Path:
        """Write a file into an existing folder, which may hold others; returns its path.

        Raises:
            QuantizationError: names an operation that cannot be written.
            GraphError: the runtime's package, which also writes its files, is not installed.
        """
        require_installed(self.runtime)
        destination = folder / self.file
        self.writer(source, destination, kind)
        return destination

    def bytes(self, file: Path) -> int:
        """Size on disk, the files beside it that belong to it included."""
        return sum(each.stat().st_size for each in file.parent.glob(f"{file.stem}.*") if self.owns(each))

    def owns(self, file: Path) -> bool:
        return file.name == self.file or (self.name == "openvino" and file.suffix == ".bin")


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "model.onnx", onnx_file.write, "onnxruntime"),
        Target("openvino", "model.xml", openvino.write, "openvino"),
        Target("executorch", "model.pte", executorch.write, "executorch"),
        Target("litert", "model.tflite", litert.write, "litert"),
    )
}


def target_of(runtime: Runtime) -> Target:
    """The format that a runtime loads."""
    return next(each for each in TARGETS.values() if set(each.runtime.suffixes) & set(runtime.suffixes))


def chosen(names: Sequence[str]) -> list[Target]:
    """Targets by their names, whose runtimes are all installed.

    Raises:
        ValueError: there is none of this name; GraphError: a runtime is missing.
    """
    for name in names:
        if name not in TARGETS:
            raise ValueError(f"target {name!r}: must be one of {', '.join(TARGETS)}")
        require_installed(TARGETS[name].runtime)
    return [TARGETS[name] for name in names]
