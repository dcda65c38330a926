"""What is damaged or in the way: checkpoints, artifacts, a full disk, a moved clock, a second `dvc repro`."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from akgp.stages.table import STAGES
from benchmarks.chaos.bench import ReferenceRun
from benchmarks.chaos.kills import Kill, noticed, plan, reached, resumed, struck, victim_of, went_on
from benchmarks.chaos.records import MISSED, Fault
from benchmarks.chaos.workspace import EPOCHS, STAGE_SECONDS, TRAININGS, Repro

NAMED = "named, not trained on; the training starts again and ends as the undisturbed one"
MENDED = "named, and written again of the last whole checkpoint; the training ends as the undisturbed one"
DISK_BYTES = 40 << 20
FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
YEAR = 365 * 24 * 3600


def checkpoints(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """The driver is killed, then what it would resume from is damaged; three times in one training."""
    damages: list[tuple[str, str, str, Callable[[bytes], bytes]]] = [
        ("truncated checkpoint", NAMED, "state.pt", lambda content: content[: draw.randrange(len(content))]),
        ("checkpoint with a changed byte", NAMED, "state.pt", lambda content: _flipped(content, draw)),
        ("emptied Ray snapshot", MENDED, "checkpoint_manager_snapshot.json", lambda content: b""),
    ]
    draw.shuffle(damages)
    workspace = bench.started_from(bench.pruned, "checkpoints")
    repro, faults = workspace.repro(), []
    for kill, (what, expected, name, damage) in zip(_epochs(draw, len(damages)), damages, strict=True):
        fault = Fault(f"kill -9 of a stage, then: {what}", expected)
        faults.append(fault)
        if not reached(repro, kill, bench, fault):
            fault.happened.append(MISSED)
            continue
        _end(repro, fault)
        if not (before := workspace.rows(kill.stage)):
            fault.happened.append(MISSED)  # its training had ended
            repro = workspace.repro()
            continue
        for file in workspace.root.glob(f"runs/{kill.stage}-*/**/{name}"):
            file.write_bytes(damage(file.read_bytes()))
        begun = time.monotonic()
        repro = resumed(workspace, (list(STAGES).index(kill.stage), len(before)), fault)
        fault.recovered = time.monotonic() - begun
        fault.point = f"{kill.stage}, after epoch {len(before)}"
        said = workspace.line("is damaged")
        fault.happened += [repr(said), went_on(workspace, kill.stage, before)]
        if said is None:
            fault.problems.append("nobody says that it is damaged")
    bench.judge(workspace, _hit(faults), repro.wait())
    return faults


def artifacts(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """A byte of a finished artifact is changed by hand; then `dvc repro`."""
    names = ["models/student/model.safetensors", "models/int8/model.onnx", "reports/metrics.json"]
    workspace = bench.started_from(bench.done, "artifacts")
    faults, status = [], 0
    for name in draw.sample(names, len(names)):
        fault = Fault(
            "artifact edited by hand", "`dvc status` names it; `dvc repro` brings the right one back"
        )
        file = workspace.root / name
        file.write_bytes(_flipped(file.read_bytes(), draw))
        fault.point = name
        begun = time.monotonic()
        workspace.started(sys.executable, "-m", "dvc", "status", log="status").wait()
        seen = "\n".join(workspace.said("status"))
        fault.happened.append("named by `dvc status`" if "modified" in seen else "not named by `dvc status`")
        if "modified" not in seen:
            fault.problems.append(f"`dvc status` says {seen!r}")
        status = workspace.repro().wait()
        fault.recovered = time.monotonic() - begun
        fault.happened.append(
            "; ".join(line for line in workspace.said() if "tage '" in line and "didn't" not in line)
        )
        bench.judge(workspace, [fault], status)
        faults.append(fault)
    return faults


def full_disk(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """The workspace's file system, a small one of its own, fills up while a stage computes."""
    expected = "one line that names the disk, earlier artifacts whole; once there is space, it resumes"
    faults: list[Fault] = []
    with small_disk(bench.folder / "disk") as folder:
        workspace = bench.pruned.copied(folder)
        repro = workspace.repro()
        for kill in [*_epochs(draw, 1), *plan(draw, ["disk"], ["quantize", "evaluate"])]:
            fault = Fault("disk full", expected)
            faults.append(fault)
            if not reached(repro, kill, bench, fault) or (position := repro.position()) is None:
                fault.happened.append(MISSED)
                continue
            stage = repro.stage() or kill.stage
            before = workspace.rows(stage) if stage in TRAININGS else []
            fault.point = f"{stage}, after epoch {len(before)}" if before else stage
            begun = time.monotonic()
            ballast = _fill(folder)
            noticed(repro, position, begun, fault)
            if not (said := workspace.line("akgp: ")) or "space" not in said:
                fault.problems.append("no line of ours names the disk")
            fault.problems += [f"{name} is damaged" for name in bench.damaged(workspace)]
            workspace.left(30)
            ballast.unlink()
            repro = resumed(workspace, position, fault)
            fault.recovered = time.monotonic() - begun
            if before:
                fault.happened.append(went_on(workspace, stage, before))
        bench.judge(workspace, _hit(faults), repro.wait())
    return faults


def clock(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """The driver is killed, and what resumes lives in another year; or all files do."""
    expected = "nothing stalls or is taken for newer; it resumes from the last epoch"
    library = next((path for path in FAKETIME if Path(path).exists()), None)
    days = draw.randrange(30, 700)
    moves: list[tuple[str, dict[str, str], float]] = [
        ("all files a year in the future", {}, time.time() + YEAR),
        (f"clock {days} days ahead", _faked(library, f"+{days}d"), 0),
        (f"clock {days} days back again", {}, 0),
        (f"clock {days} days behind", _faked(library, f"-{days}d"), 0),
    ]
    workspace = bench.started_from(bench.pruned, "clock")
    repro, faults = workspace.repro(), []
    for kill, (what, variables, mtime) in zip(_epochs(draw, len(moves)), moves, strict=True):
        fault = Fault(f"kill -9 of a stage, then: {what}", expected)
        faults.append(fault)
        if "clock" in what and library is None:
            fault.happened += [MISSED, "libfaketime is not installed (Debian: faketime)"]
            continue
        if not reached(repro, kill, bench, fault):
            fault.happened.append(MISSED)
            continue
        workspace.environment = variables
        if mtime:
            for path in [workspace.root, *workspace.root.rglob("*")]:
                with contextlib.suppress(FileNotFoundError):  # Ray's workers live a moment longer
                    os.utime(path, (mtime, mtime))
        repro = struck(bench, repro, "driver", fault)
    bench.judge(workspace, _hit(faults), repro.wait())
    return faults


def second_repro(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """Another `dvc repro` in the same workspace, at random points of a running one."""
    expected = "the second is refused with one line; the first continues"
    workspace = bench.started_from(bench.pruned, "second")
    first, faults = workspace.repro(), []
    for kill in plan(draw, ["none"] * 3, ["distill", "quantize", "evaluate"]):
        fault = Fault("two `dvc repro` at once", expected)
        faults.append(fault)
        if not reached(first, kill, bench, fault):
            fault.happened.append(MISSED)
            continue
        fault.point = first.stage() or f"after {kill.stage}"
        begun = time.monotonic()
        second = workspace.repro(log="second")
        status = second.wait(STAGE_SECONDS)
        said = workspace.line("ERROR", "akgp: ", log="second")
        fault.happened.append(
            f"the second ended with {status} after {time.monotonic() - begun:.0f} s: {said!r}"
        )
        if status == 0 and not first.ended():
            fault.problems.append("the second was not refused")
    status = first.wait()
    if status != 0:
        for fault in faults:
            fault.happened.append(f"the first ended with {status}: {workspace.line('ERROR')!r}; run again")
        status = workspace.repro().wait()
    bench.judge(workspace, _hit(faults), status)
    return faults


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES.

    Raises:
        RuntimeError: none can be mounted here (it takes root).
    """
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise RuntimeError(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """A file that takes all the space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        size = 1 << 20
        while size:
            try:
                stream.write(bytes(size))
            except OSError:
                size //= 2
    return ballast


def _end(repro: Repro, fault: Fault) -> None:
    """Kill the driver and wait until nothing is left of it."""
    driver = victim_of(repro, "driver")
    if driver:
        driver.kill()
        fault.kills += 1
    repro.wait()
    repro.workspace.left()


def _epochs(draw: random.Random, count: int) -> list[Kill]:
    """Points of distill, an even distance apart."""
    step = (EPOCHS - 2) // count
    return [
        Kill("driver", "distill", part * step + draw.randrange(1, step), 0.0, draw.uniform(0, 0.5))
        for part in range(count)
    ]


def _faked(library: str | None, offset: str) -> dict[str, str]:
    return {"LD_PRELOAD": library or "", "FAKETIME": offset}


def _flipped(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def _hit(faults: list[Fault]) -> list[Fault]:
    return [fault for fault in faults if MISSED not in fault.happened]
