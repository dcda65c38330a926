"""kill -9 of what computes: dvc, a stage's driver, its worker, its Ray, a node of a cluster."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from akgp.orchestration.session import ENVIRONMENT
from akgp.stages.table import STAGES
from benchmarks.chaos.bench import ReferenceRun
from benchmarks.chaos.processes import Process
from benchmarks.chaos.records import MISSED, Fault
from benchmarks.chaos.workspace import EPOCHS, STAGE_SECONDS, TRAININGS, Position, Repro, Workspace, waited

GOES_ON = "the next `dvc repro` resumes from the last epoch, beside no other computation"
ENDS = f"the stage resumes by itself, or ends with one line, and {GOES_ON}"
HEAD = ("gcs_server", "raylet/raylet")
ROWS = {
    "dvc": ("kill -9 of dvc", GOES_ON),
    "driver": ("kill -9 of a stage (driver)", GOES_ON),
    "worker": ("kill -9 of a Ray Train worker", ENDS),
    "head": ("kill -9 of Ray's head, a local Ray", ENDS),
    "node": (
        "kill -9 of a node with its processes, cluster of two",
        "the stage says so and resumes from the last epoch by itself, on the other node",
    ),
}
NOTICED_SECONDS = 240  # until a stage has noticed what it lost


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
        return list(STAGES).index(self.stage), self.epoch, self.share


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


def whole_pipeline(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """Kills all over the pipeline, from an empty workspace."""
    places = ["data", "teacher", "teacher", "prune", "distill", "quantize", "evaluate"]
    victims = ["dvc", "dvc", "driver", "driver", "worker", "worker", "head", "head"]
    return chain(bench, bench.started_from(bench.fresh, "whole"), plan(draw, victims, places))


def second_half(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """Kills from distill on."""
    places = ["distill", "distill", "quantize", "evaluate"]
    victims = ["dvc", "dvc", "driver", "worker", "head"]
    return chain(bench, bench.started_from(bench.pruned, "half"), plan(draw, victims, places))


def nodes(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """A cluster of two nodes and a head: the node that computes is killed, another one comes."""
    os.environ |= ENVIRONMENT | {"RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    workspace = bench.started_from(bench.pruned, "nodes")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        there = [cluster.add_node(num_cpus=1) for _ in range(2)]
        workspace.set_ray(address=cluster.address, max_failures=10)
        repro, faults = workspace.repro(), []
        for epoch in sorted(draw.sample(range(1, EPOCHS - 1), 3)):
            fault = Fault(*ROWS["node"])
            faults.append(fault)
            if not reached(repro, Kill("node", "distill", epoch, 0.0, draw.uniform(0, 0.5)), bench, fault):
                fault.happened.append(MISSED)
                continue
            before, computing = len(workspace.rows("distill")), [node for node in there if _computes(node)]
            if not computing:
                fault.happened.append(MISSED)  # its training has just ended
                continue
            (lost,) = computing
            killed, losses = time.monotonic(), _losses(workspace)
            raylet = psutil.Process(lost.all_processes["raylet"][0].process.pid)
            for process in [raylet, *raylet.children(recursive=True)]:
                process.kill()
            fault.kills, fault.point = 1, f"distill, after epoch {before}"
            told = partial(_told, repro, losses + 1)
            waited(told, NOTICED_SECONDS, "a word of the loss")
            at = len(workspace.rows("distill"))  # the lost worker may have written a moment longer
            repro.until_further((list(STAGES).index("distill"), at), alone=False)
            fault.recovered = time.monotonic() - killed
            fault.happened += [repr(workspace.line("a worker died")), f"resumed after epoch {at}"]
            there.remove(lost)
            cluster.remove_node(lost, allow_graceful=False)
            there.append(cluster.add_node(num_cpus=1))
        bench.judge(workspace, [fault for fault in faults if MISSED not in fault.happened], repro.wait())
        return faults
    finally:
        cluster.shutdown()


def promotions(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """`akgp release promote` is killed again and again, then left alone."""
    expected = "nothing half-written is ever in production; the next one promotes"
    begun = time.monotonic()
    _akgp(bench.started_from(bench.done, "promoted-once"), "release", "promote").wait(STAGE_SECONDS)
    duration, faults = time.monotonic() - begun, []
    workspace = bench.started_from(bench.done, "promoted")
    for share in (draw.uniform(0.3, 0.95) for _ in range(4)):
        fault = Fault("kill -9 of a promotion", expected, "akgp release promote", share * duration)
        process = _akgp(workspace, "release", "promote")
        time.sleep(fault.delay)
        if process.poll() is None:
            process.kill()
            process.wait()
            fault.kills = 1
            faults.append(fault)
        shown = _akgp(workspace, "release", "show").wait(STAGE_SECONDS)
        last = workspace.said()[-1].replace("akgp: ", "")
        fault.happened.append(f"`akgp release show` ends with {shown}: {last!r}")
        if shown != 0 and "no releases here" not in last:
            fault.problems.append("what is in production is not whole")
    begun = time.monotonic()
    status = _akgp(workspace, "release", "promote").wait(STAGE_SECONDS)
    for fault in faults:
        fault.recovered = time.monotonic() - begun
        if _akgp(workspace, "release", "show").wait(STAGE_SECONDS) != 0:
            fault.problems.append("no whole release is in production at the end")
    bench.judge(workspace, faults, status)
    return faults


def _akgp(workspace: Workspace, *words: str) -> subprocess.Popen[bytes]:
    return workspace.started(str(Path(sys.executable).with_name("akgp")), *words)


def _told(repro: Repro, losses: int) -> bool:
    return repro.ended() or repro.stage() != "distill" or _losses(repro.workspace) >= losses


def _losses(workspace: Workspace) -> int:
    return sum("a worker died" in line for line in workspace.said())


def _computes(node: Any) -> bool:
    """Whether a worker of a training runs on the node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("RayTrainWorker" in " ".join(child.cmdline()) for child in raylet.children())


def chain(bench: ReferenceRun, workspace: Workspace, kills: list[Kill]) -> list[Fault]:
    """One pipeline killed again and again, each time resumed by `dvc repro`, to its end."""
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


def reached(repro: Repro, kill: Kill, bench: ReferenceRun, fault: Fault) -> bool:
    """Wait until the kill's point has come; False: the run ended before. Says in `fault` where it is."""
    wanted = list(STAGES).index(kill.stage), kill.epoch

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


def struck(bench: ReferenceRun, repro: Repro, kind: str, fault: Fault) -> Repro:
    """Kill, look at what is left, run `dvc repro` at once and wait until it is further than it was."""
    workspace = repro.workspace
    waited(lambda: repro.ended() or repro.position(), STAGE_SECONDS, "the next stage")
    victim = victim_of(repro, kind)
    position, stage = repro.position(), repro.stage()
    if victim is None or position is None or stage is None:
        fault.happened.append(MISSED)  # just between two stages
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
    elif noticed(repro, position, killed, fault) and kind != "driver" and not workspace.line("akgp: "):
        fault.problems.append("the stage said nothing")
    if repro.process.poll() is not None:
        repro = resumed(workspace, position, fault)
    fault.recovered = time.monotonic() - killed
    fault.problems += [f"{name} is damaged" for name in bench.damaged(workspace)]
    if before:
        fault.happened.append(went_on(workspace, stage, before))
    return repro


def noticed(repro: Repro, position: Position, killed: float, fault: Fault) -> bool:
    """Wait until `dvc repro` has ended, which is said, or has resumed by itself: then it is False."""
    try:
        repro.until_further(position, NOTICED_SECONDS)
    except TimeoutError:
        fault.problems.append(f"the stage hung for {NOTICED_SECONDS} s")
        repro.workspace.clear()
        repro.process.wait()
        return False
    seconds = time.monotonic() - killed
    if (status := repro.process.poll()) is None:
        fault.happened.append(f"resumed by itself after {seconds:.0f} s")
        return False
    said = repro.workspace.line("akgp: ", "ERROR")
    fault.happened.append(f"dvc ended with {status} after {seconds:.0f} s: {said!r}")
    return status != 0


def resumed(workspace: Workspace, position: Position, fault: Fault) -> Repro:
    """A new `dvc repro` that is further than `position`; one that is refused is said, and tried again."""
    for _ in range(3):
        repro = workspace.repro()
        repro.until_further(position)
        if not repro.ended() or repro.process.returncode == 0:
            break
        fault.problems.append(f"the next `dvc repro` did not resume: {workspace.line('akgp: ', 'ERROR')!r}")
        workspace.left(60)
    return repro


def went_on(workspace: Workspace, stage: str, before: list[dict[str, float]]) -> str:
    """From which epoch: those kept have the seconds that they took the first time."""
    folder = {"teacher": "dense/tiny", "distill": "student"}[stage]
    after = workspace.rows(stage) or _history(workspace, folder)
    kept = sum(1 for _ in _common(before, after))
    return f"resumed from epoch {kept}" if kept else "started again"


def _history(workspace: Workspace, folder: str) -> list[dict[str, float]]:
    file = workspace.root / "models" / folder / "history.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def _common(one: list[dict[str, float]], other: list[dict[str, float]]) -> Iterator[None]:
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            return
        yield None
