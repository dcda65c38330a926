"""The undisturbed run: made once, kept with the workspaces from which faults start."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.records import Fault
from benchmarks.chaos.workspace import Workspace


@dataclass(frozen=True)
class ReferenceRun:
    """What faults are compared with.

    Attributes:
        fresh, pruned, done: the workspace before, in the middle of and after the undisturbed run.
        durations: seconds of each of its stages.
    """

    folder: Path
    durations: dict[str, float]

    @property
    def fresh(self) -> Workspace:
        return Workspace(self.folder / "fresh")

    @property
    def pruned(self) -> Workspace:
        return Workspace(self.folder / "pruned")

    @property
    def done(self) -> Workspace:
        return Workspace(self.folder / "done")

    def started_from(self, origin: Workspace, name: str) -> Workspace:
        """A copy in which a fault may do what it does."""
        return origin.copied(self.folder / name)

    def damaged(self, workspace: Workspace) -> list[str]:
        """Artifacts of the workspace that are not those of the undisturbed run."""
        right = self.done.fingerprint()
        return [
            name
            for name, digest in workspace.fingerprint().items()
            if right.get(name) != digest and not any(part.startswith(".") for part in Path(name).parts)
        ]

    def judge(self, workspace: Workspace, faults: list[Fault], status: int) -> None:
        """Add what is to be said at the end of a workspace's last run to all of its faults."""
        problems = [f"{name} differs from the undisturbed run's" for name in self.damaged(workspace)]
        problems += [f"{name} is left half-written" for name in workspace.half_written()]
        problems += [f"a process is left: {line}" for line in workspace.left()]
        if workspace.most > 1:
            problems.append(f"{workspace.most} computations ran side by side")
        if status != 0:
            said = workspace.line("akgp: ") or workspace.said()[-1]
            problems.append(f"the last `dvc repro` ended with {status}: {said}")
        equal = status == 0 and workspace.metrics() == self.done.metrics()
        for fault in faults:
            fault.problems += problems
            fault.equal = equal
        workspace.clear()


def bench(folder: Path) -> ReferenceRun:
    """The undisturbed run in `folder`; made if it is not there."""
    record = folder / "durations.json"
    if not record.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        durations: dict[str, float] = {}
        workspace = Workspace.created(folder / "done")
        workspace.copied(folder / "fresh")
        _timed(workspace, durations, "prune")
        workspace.copied(folder / "pruned")
        _timed(workspace, durations)
        record.write_text(json.dumps(durations), encoding="utf-8")
    return ReferenceRun(folder, json.loads(record.read_text(encoding="utf-8")))


def _timed(workspace: Workspace, durations: dict[str, float], *targets: str) -> None:
    """Run to a target, or to the end, and add up how long each stage takes."""
    repro = workspace.repro(*targets)
    last: Any = time.monotonic()
    while not repro.ended():
        time.sleep(0.2)
        now = time.monotonic()
        if stage := repro.stage():
            durations[stage] = durations.get(stage, 0.0) + now - last
        last = now
    if repro.process.returncode != 0:
        raise RuntimeError("the undisturbed run failed:\n" + "\n".join(workspace.said()[-5:]))
