"""The workspace's paths; the input of a stage (`Task`) and what its computation yields (`Step`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the commands take their defaults from here, and start without pydantic
    import torch

    from akgp.params import Params

METRICS = "metrics.json"
"""In the folder of each stage that computes: its figures."""


class StageError(ValueError):
    """A stage cannot start or continue; the message says what to change."""


class GateError(StageError):
    """What a stage made, and put in place, does not pass its gate: repeated, it would be measured again."""

    status = 3
    """Of the command, by which a flow tells that it need not be tried again."""


@dataclass(frozen=True)
class Workspace:
    """The folder that holds params.yaml and dvc.yaml; every path of the pipeline is named here."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def pruned(self) -> Path:
        return self.root / "models" / "pruned"

    @property
    def student(self) -> Path:
        return self.root / "models" / "student"

    @property
    def int8(self) -> Path:
        return self.root / "models" / "int8"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def network_files(self) -> Path:
        """A file NAME.json for each network: the digests of the user's own files that it is built from."""
        return self.root / "models" / "files"

    @property
    def all_dense(self) -> Path:
        return self.root / "models" / "dense"

    @property
    def all_folds(self) -> Path:
        return self.root / "models" / "folds"

    def dense(self, network: str) -> Path:
        return self.all_dense / network

    def folds(self, network: str) -> Path:
        """A folder for each fold, named by its number: the network that was trained without it."""
        return self.all_folds / network


@dataclass(frozen=True)
class Task:
    """One run of a stage; it is sent to the workers as it is."""

    stage: str
    params: Params
    root: Path
    network: str | None = None

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def device(self) -> torch.device:
        """Where a worker computes: its own GPU, or the processor."""
        import torch  # here: the driver, which imports this module, needs none

        return torch.device("cuda" if self.params.ray.gpus_per_worker else "cpu")

    @property
    def label(self) -> str:
        """The stage's name as DVC writes it, such as teacher@cifar."""
        return f"{self.stage}@{self.network}" if self.network else self.stage


def require(*paths: Path) -> None:
    """Raise StageError unless every path exists."""
    for path in paths:
        if not path.exists():
            raise StageError(f"{path}: missing; `dvc repro` makes it")


@dataclass(frozen=True)
class Step:
    """What a computation yields after each part: metrics, and a state to resume from."""

    row: dict[str, Any]
    state: dict[str, Any] | None = None
