"""kill -9 of what computes: dvc, a stage's driver, its worker, its Ray, a node of a cluster."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from akgp.stages import STAGES
from experiments.chaos.bench import Bench
from experiments.chaos.processes import Process
from experiments.chaos.records import MISSED, Fault
from experiments.chaos.workspace import EPOCHS, STAGE_SECONDS, TRAININGS, Position, Repro, Workspace, waited

GOES_ON = "the next `dvc repro` goes on from the last epoch, beside no other computation"
ENDS = f"the stage ends with one line; {GOES_ON}"
HEAD = ("gcs_server", "raylet/raylet")
ROWS = {
    "dvc": ("kill -9 of dvc", GOES_ON),
    "driver": ("kill -9 of a stage (driver)", GOES_ON),
    "worker": ("kill -9 of a Ray Train worker", ENDS),
    "head": ("kill -9 of Ray's head, a local Ray", ENDS),
}
NOTICED_SECONDS = 120  # until a stage has noticed what it lost


@dataclass(frozen=True)
class Kill:
    """A kill to come: of what, in which stage, and when.

    Attributes:
        epoch: of a training: after that many epochs.
        share: otherwise after this share of what the stage took undisturbed.
        delay: seconds on top.
    """

    victim: str
    stage: str
    epoch: int
    share: float
    delay: float

    @property
    def order(self) -> tuple[int, int, float]:
        return STAGES.index(self.stage), self.epoch, self.share


def plan(draw: random.Random, victims: list[str], places: list[str]) -> list[Kill]:
    """A kill of each victim at a random point, in the order in which they come."""
    kills = []
    for victim in victims:
        stage = draw.choice(places)
        if stage == "data" and victim in ("worker", "head"):  # it has no Ray
            stage = draw.choice(places[1:])
        epoch = draw.randrange(1, EPOCHS - 1) if stage in TRAININGS and draw.random() < 0.8 else 0
        kills.append(Kill(victim, stage, epoch, draw.uniform(0.1, 0.9), draw.uniform(0, 0.5)))
    return sorted(kills, key=lambda kill: kill.order)


def whole_pipeline(bench: Bench, draw: random.Random) -> list[Fault]:
    """Kills all over the pipeline, from an empty workspace."""
    places = ["data", "teacher", "teacher", "prune", "distill", "quantize", "evaluate"]
    victims = ["dvc", "dvc", "driver", "driver", "worker", "worker", "head", "head"]
    return chain(bench, bench.started_from(bench.fresh, "whole"), plan(draw, victims, places))


def second_half(bench: Bench, draw: random.Random) -> list[Fault]:
    """Kills from distill on."""
    places = ["distill", "distill", "quantize", "evaluate"]
    victims = ["dvc", "dvc", "driver", "worker", "head"]
    return chain(bench, bench.started_from(bench.pruned, "half"), plan(draw, victims, places))


def chain(bench: Bench, workspace: Workspace, kills: list[Kill]) -> list[Fault]:
    """One pipeline killed again and again, each time gone on with by `dvc repro`, to its end."""
    faults, repro = [], workspace.repro()
    for kill in kills:
        row, expected = ROWS[kill.victim]
        fault = Fault(row, expected)
        faults.append(fault)
        if not reached(repro, kill, bench, fault):
            fault.happened.append(MISSED)
            continue
        repro = struck(bench, repro, kill.victim, fault)
    status = repro.wait()
    bench.judge(workspace, [fault for fault in faults if MISSED not in fault.happened], status)
    return faults


def reached(repro: Repro, kill: Kill, bench: Bench, fault: Fault) -> bool:
    """Wait until the kill's point has come; False: the run ended before. Says in `fault` where it is."""
    wanted = STAGES.index(kill.stage), kill.epoch

    def come() -> Position | bool:
        position = repro.position()
        return repro.ended() or (position if position and position >= wanted else False)

    position = waited(come, STAGE_SECONDS * 3, kill.stage)
    fault.delay = kill.delay if kill.epoch else kill.delay + kill.share * bench.durations.get(kill.stage, 1.0)
    time.sleep(fault.delay)
    return position is not True


def victim_of(repro: Repro, kind: str) -> Process | None:
    """The process to kill; waited for, since it may not have been started yet."""
    found = {
        "dvc": lambda: Process(repro.process.pid, 0, ("dvc",)),
        "driver": repro.driver,
        "worker": lambda: repro.find("RayTrainWorker"),
        "head": lambda: repro.find(*HEAD),
    }[kind]
    waited(lambda: repro.ended() or found(), STAGE_SECONDS, f"a process to kill ({kind})")
    return None if repro.ended() else found()


def struck(bench: Bench, repro: Repro, kind: str, fault: Fault) -> Repro:
    """Kill, look at what is left, run `dvc repro` at once and wait until it is further than it was."""
    workspace = repro.workspace
    victim = victim_of(repro, kind)
    position, stage = repro.position(), repro.stage()
    if victim is None or position is None or stage is None:
        fault.happened.append(MISSED)  # between two stages
        return repro
    before = workspace.rows(stage) if stage in TRAININGS else []
    victim.kill()
    killed = time.monotonic()
    fault.kills += 1
    fault.point = f"{stage}, after epoch {len(before)}" if before else f"{stage}, before a first epoch"
    if stage not in TRAININGS:
        fault.point = stage
    if kind == "dvc":
        repro.process.wait()
    else:
        fault.happened.append(noticed(repro, killed, fault))
    again = resumed(workspace, position, fault)
    fault.recovered = time.monotonic() - killed
    fault.problems += [f"{name} is damaged" for name in bench.damaged(workspace)]
    if before:
        fault.happened.append(went_on(workspace, stage, before))
    return again


def noticed(repro: Repro, killed: float, fault: Fault) -> str:
    """How `dvc repro` ended by itself."""
    try:
        status = repro.wait(NOTICED_SECONDS)
    except TimeoutError:
        fault.problems.append(f"the stage hung for {NOTICED_SECONDS} s")
        repro.workspace.clear()
        return "hung"
    said = repro.workspace.line("akgp: ") or "no line of ours"
    return f"dvc ended with {status} after {time.monotonic() - killed:.0f} s: {said!r}"


def resumed(workspace: Workspace, position: Position, fault: Fault) -> Repro:
    """A new `dvc repro` that is further than `position`; one that is refused is said, and tried again."""
    for _ in range(3):
        repro = workspace.repro()
        repro.until_further(position)
        if not repro.ended() or repro.process.returncode == 0:
            break
        fault.problems.append(f"the next `dvc repro` did not go on: {workspace.line('akgp: ', 'ERROR')!r}")
        workspace.left(60)
    return repro


def went_on(workspace: Workspace, stage: str, before: list[dict[str, float]]) -> str:
    """From which epoch: those kept have the seconds that they took the first time."""
    folder = {"teacher": "dense/tiny", "distill": "student"}[stage]
    after = workspace.rows(stage) or _history(workspace, folder)
    kept = sum(1 for _ in _common(before, after))
    return f"went on from epoch {kept}" if kept else "started again"


def _history(workspace: Workspace, folder: str) -> list[dict[str, float]]:
    import json

    file = workspace.root / "models" / folder / "history.json"
    return json.loads(file.read_text()) if file.exists() else []


def _common(one: list[dict[str, float]], other: list[dict[str, float]]) -> Iterator[None]:
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            return
        yield None
