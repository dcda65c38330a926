"""A workspace with the pipeline in small: run, watched, and compared with one that nothing has disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
import torch
from ruamel.yaml import YAML

from akgp import params
from akgp.orchestration.state_packing import unpacked
from akgp.stages.table import STAGES
from benchmarks.chaos.processes import MARKER, Process, below, driver_of, left, marked

ROOT = Path(__file__).parents[2]
EPOCHS = 100  # of 0.15 s on an idle core: they must not be over before a fault comes
TRAINING = {
    "epochs": EPOCHS, "batch_size": 64, "learning_rate": 0.1, "augment": {"crop_padding": 1, "flip": False},
}  # fmt: skip
PARAMS = {
    "data": {"source": "digits", "color": "gray", "splits": {"test": 0.25}},
    "networks": {"tiny": {"architecture": "cifar_resnet20", "widths": [4, 4, 8]}},
    "teachers": ["tiny"],
    "student": "tiny",
    "teacher": TRAINING,
    "prune": {"ratio": 0.5, "round_to": 2},
    "distill": {"training": TRAINING},
    "quantize": {"images": 64},
    "evaluate": {"rounds": 6, "warmup_seconds": 0.0, "speed_gate": "warn"},
    "ray": {"cpus_per_worker": 1},
}
TRAININGS = ("teacher", "distill")
MEASURED = ("seconds", "images_per_second", "latency", "times_faster")  # begin the keys of what a clock gave
STAGE_SECONDS = 240  # a stage that takes longer on a busy machine is taken to hang
Position = tuple[int, int]
T = TypeVar("T")


class TooLong(TimeoutError):
    """Something did not happen in time."""


def waited(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The first true value of `condition`.

    Raises:
        TooLong: none came within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TooLong(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.15)
    return found


@dataclass
class Workspace:
    """A folder with everything that `dvc repro` needs.

    Attributes:
        most: the most computations that were seen side by side, Ray and its driver both alive.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    most: int = 0

    @classmethod
    def created(cls, root: Path) -> Workspace:
        """A new one: this repository's files, the small pipeline's parameters."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        for name in files.stdout.decode().split("\0"):
            if name.startswith(("akgp/", "flows/", ".dvc", "dvc.yaml", "prefect.yaml")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        (root / "params.yaml").write_text(params.dump(params.validate(PARAMS)), encoding="utf-8")
        return cls(root)

    def copied(self, root: Path) -> Workspace:
        """The same elsewhere; what was there goes."""
        if root.is_mount():
            shutil.copytree(self.root, root, dirs_exist_ok=True, symlinks=True)
        else:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(self.root, root, symlinks=True)
        return Workspace(root)

    def set_ray(self, **settings: Any) -> None:
        """Change `ray` of params.yaml, which re-runs nothing."""
        tree = YAML(typ="safe").load((self.root / "params.yaml").read_text(encoding="utf-8"))
        tree["ray"] |= settings
        (self.root / "params.yaml").write_text(params.dump(params.validate(tree)), encoding="utf-8")

    @property
    def marker(self) -> str:
        return str(self.root)

    def log(self, name: str) -> Path:
        """Where a command's output goes: beside the workspace, whose disk may be full."""
        return self.root.with_name(f"{self.root.name}.{name}")

    def processes(self) -> list[Process]:
        return marked(self.marker)

    def started(self, *command: str, log: str = "log", **variables: str) -> subprocess.Popen[bytes]:
        """A command of this environment in the workspace, which writes to the file `log`."""
        programs = str(Path(sys.executable).parent)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        environment = clean | self.environment | variables | {MARKER: self.marker}
        environment["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment["PYTHONPATH"] = str(ROOT)
        environment["DVC_SITE_CACHE_DIR"] = str(self.root / ".dvc" / "tmp" / "site")
        environment |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}  # the machine may be shared
        self.log(log).unlink(missing_ok=True)  # what was killed may still write to it
        with self.log(log).open("ab") as output:
            return subprocess.Popen(
                command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def repro(self, *targets: str, log: str = "log", **variables: str) -> Repro:
        """Start `dvc repro`."""
        command = (sys.executable, "-m", "dvc", "repro", *targets)
        return Repro(self, self.started(*command, log=log, **variables))

    def said(self, log: str = "log") -> list[str]:
        """What the last command wrote, without the bars' earlier states."""
        text = self.log(log).read_text(errors="replace", encoding="utf-8").replace("\r", "\n")
        for folder in (self.root, ROOT, Path(sys.prefix)):  # where they lie is of no interest
            text = text.replace(f"{folder}/", "")
        return [line for line in text.splitlines() if line.strip()]

    def line(self, *words: str, log: str = "log") -> str | None:
        """The first line of it that holds one of the words."""
        lines = (line for line in self.said(log) if "(raylet)" not in line)  # Ray's own words
        found = (line for line in lines if any(word in line for word in words))
        return next(found, None)

    def rows(self, stage: str) -> list[dict[str, float]]:
        """The epochs in the last checkpoint of a training; [] before the first, or while it is replaced."""
        storage = params.load(self.root / "params.yaml").ray.storage
        # It is read while Ray writes and removes it, its store is gone, or a fault has damaged it.
        with contextlib.suppress(Exception):
            filesystem, path = fsspec.core.url_to_fs(
                storage if "://" in storage else str(self.root / storage)
            )
            filesystem.invalidate_cache()
            found: list[dict[str, float]] = []
            for file in filesystem.glob(f"{path}/{stage}-*/checkpoint_*/state.pt"):
                state = unpacked(*torch.load(io.BytesIO(filesystem.cat_file(file)), weights_only=True))
                if "history" not in state:  # it has ended
                    history = str(PurePosixPath(file).parent / "artifact" / "history.json")
                    state = {"history": json.loads(filesystem.cat_file(history))}
                found = max(found, state["history"], key=len)
            return found
        return []

    def computing(self) -> list[Process]:
        """Drivers that have their Ray; how many is remembered."""
        everyone = self.processes()
        rays = {each.parent for each in everyone if each.command[0].endswith("/raylet")}
        found = [each for each in everyone if driver_of(each) and each.pid in rays]
        self.most = max(self.most, len(found))
        return found

    def fingerprint(self) -> dict[str, str]:
        """Digests of all artifacts; of JSON files without what a clock gave, and not of the page."""
        files = [file for folder in ("data", "models") for file in (self.root / folder).rglob("*")]
        files += [self.root / "reports" / "metrics.json"]
        return {str(file.relative_to(self.root)): _digest(file) for file in files if file.is_file()}

    def metrics(self) -> dict[str, dict[str, Any]] | None:
        """reports/metrics.json without what a clock gave; None: there is none."""
        file = self.root / "reports" / "metrics.json"
        return _untimed(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def half_written(self) -> list[str]:
        """Files and folders that a replacement has left beside its destination."""
        places = ("data", "models", "reports")
        found = [path for place in places for path in (self.root / place).rglob(".*")]
        return [str(path.relative_to(self.root)) for path in found if path.suffix in (".new", ".old")]

    def left(self, seconds: float = 30) -> list[str]:
        """Processes that are there still, after a while."""
        return [each.line.replace(f"{sys.prefix}/", "")[:80] for each in left(self.marker, seconds)]

    def clear(self) -> None:
        """Kill every process of this workspace."""
        while found := self.processes():
            for each in found:
                each.kill()
            time.sleep(0.2)


@dataclass
class Repro:
    """A running `dvc repro`, or another command that runs stages.

    Attributes:
        over: of a command that is still running: whether its stages have ended.
    """

    workspace: Workspace
    process: subprocess.Popen[bytes]
    over: Callable[[], bool] = lambda: False

    def tree(self) -> list[Process]:
        return below(self.process.pid, self.workspace.processes())

    def driver(self) -> Process | None:
        return next((each for each in self.tree() if driver_of(each)), None)

    def stage(self) -> str | None:
        driver = self.driver()
        return driver_of(driver) if driver else None

    def find(self, *names: str) -> Process | None:
        """The first process below it whose command holds one of the names."""
        return next((each for each in self.tree() if any(name in each.line for name in names)), None)

    def position(self) -> Position | None:
        """How far it is: the stage, and the epochs in its last checkpoint; None between two stages."""
        self.workspace.computing()
        stage = self.stage()
        if stage is None:
            return None
        return list(STAGES).index(stage), len(self.workspace.rows(stage)) if stage in TRAININGS else 0

    def ended(self) -> bool:
        return self.process.poll() is not None or self.over()

    def wait(self, seconds: float = STAGE_SECONDS * 3) -> int:
        """Its status.

        Raises:
            TooLong: it does not end.
        """
        waited(lambda: self.workspace.computing() is not None and self.ended(), seconds, "the end")
        return self.process.returncode

    def until_further(self, than: Position, seconds: float = STAGE_SECONDS * 2, alone: bool = True) -> None:
        """Wait until it has computed more than what was there at `than`, or has ended.

        Args:
            alone: its workers are its own, not a cluster's; until there is one an orphan writes.

        Raises:
            TooLong: it hasn't.
        """
        reached = list(than)

        def further() -> bool:
            if self.ended():
                return True
            position = self.position()
            if position is None:
                return False
            if alone and position[0] == reached[0] and not self.find("RayTrainWorker"):
                reached[1] = max(reached[1], position[1])  # an orphan's last epoch
            return position > (reached[0], reached[1])

        waited(further, seconds, f"more than {than}")


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".json":
        with contextlib.suppress(ValueError):
            content = json.dumps(_untimed(json.loads(content))).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _untimed(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _untimed(value) for key, value in tree.items() if not key.startswith(MEASURED)}
    return [_untimed(each) for each in tree] if isinstance(tree, list) else tree
