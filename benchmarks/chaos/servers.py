"""Servers that fail: Prefect's, its flow's process, and the S3 store."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from benchmarks.chaos.bench import ReferenceRun
from benchmarks.chaos.kills import Kill, noticed, plan, reached, resumed, went_on
from benchmarks.chaos.processes import Process, driver_of
from benchmarks.chaos.records import MISSED, Fault
from benchmarks.chaos.workspace import EPOCHS, STAGE_SECONDS, Position, Repro, Workspace, waited
from infra.s3 import server

OUTAGE_SECONDS = 60.0
BUCKET = "chaos"
LAST = ("Completed", "Failed", "Crashed", "Cancelled")
QUICKER = {"PREFECT_WORKER_QUERY_SECONDS": "1"}


# Prefect


class Deployed:
    """`python -m flows.server` in a workspace."""

    def __init__(self, workspace: Workspace, process: subprocess.Popen[bytes], port: int) -> None:
        self.workspace, self.process = workspace, process
        self.url = f"http://127.0.0.1:{port}/api"
        self.run: UUID | None = None
        self.repro = Repro(workspace, process, self.over)
        self._asked = 0.0
        self._state: str | None = None

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.url)

    def start(self) -> None:
        """Ask for a run of the pipeline, as `prefect deployment run compress/compress` does."""
        with self.client() as client:
            found = client.read_deployment_by_name("compress/compress")
            self.run = client.create_flow_run_from_deployment(found.id).id
        self._asked = 0.0

    def state(self) -> str | None:
        """The run's state by name, at most a second old; None while the server does not answer."""
        if time.monotonic() - self._asked > 1:
            self._state = None
            with contextlib.suppress(Exception), self.client() as client:
                self._state = client.read_flow_run(self.run).state.name
            self._asked = time.monotonic()
        return self._state

    def over(self) -> bool:
        return self.state() in LAST

    def last_state(self, seconds: float = STAGE_SECONDS * 3) -> str | None:
        """The run's state when it has ended."""
        waited(lambda: self.workspace.computing() is not None and self.over(), seconds, "the run's end")
        return self.state()

    def flow(self) -> Process:
        """The process of the running flow: dvc's parent."""
        everyone = {each.pid: each for each in self.workspace.processes()}
        return next(everyone[each.parent] for each in everyone.values() if "run_with_parent.py" in each.line)

    def server(self) -> list[Process]:
        """The server's process, and those below it."""
        return [each for each in self.repro.tree() if "prefect" in each.line and " server " in each.line]


@contextlib.contextmanager
def deployed(workspace: Workspace) -> Iterator[Deployed]:
    """Run server and worker, with the deployments of prefect.yaml."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = workspace.started(
        sys.executable, "-m", "flows.server", "--port", str(port), log="server", **QUICKER
    )
    try:
        waited(lambda: workspace.line("flows: ready", log="server"), 240, "the Prefect server")
        yield Deployed(workspace, process, port)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(90)
        process.kill()


def prefect(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """Runs of the deployment `compress`: the flow's process is killed, then the server."""
    rows = {
        "flow": (
            "kill -9 of the Prefect flow",
            "the run is Crashed, dvc and stage end; the next run resumes",
        ),
        "server": ("kill -9 of the Prefect server", "it is started again, and the run ends as Completed"),
    }
    workspace, faults = bench.started_from(bench.pruned, "prefect"), []
    workspace.log("log").touch()
    with deployed(workspace) as there:
        there.start()
        for kill in plan(draw, ["flow", "flow", "server", "server"], ["distill", "distill", "quantize"]):
            fault = Fault(*rows[kill.victim])
            faults.append(fault)
            if not reached(there.repro, kill, bench, fault) or (position := there.repro.position()) is None:
                fault.happened.append(MISSED)
                continue
            fault.point = there.repro.stage() or ""
            (_flow_killed if kill.victim == "flow" else _server_killed)(there, position, fault)
        if (state := there.last_state()) != "Completed":
            faults[-1].happened.append(f"the run is {state}, another one is asked for")
            there.start()
            state = there.last_state()
        workspace.log("log").write_text(workspace.said("server")[-1], encoding="utf-8")
    bench.judge(workspace, [fault for fault in faults if MISSED not in fault.happened], state != "Completed")
    return faults


def _flow_killed(there: Deployed, position: Position, fault: Fault) -> None:
    orphans = {each.pid for each in there.repro.tree() if "dvc" in each.command or driver_of(each)}
    flow, stage = there.flow(), there.repro.stage()
    flow.kill()
    fault.kills, killed = 1, time.monotonic()

    def left() -> set[int]:
        return orphans & {each.pid for each in there.workspace.processes()}

    with contextlib.suppress(TimeoutError):
        waited(lambda: not left(), 60, "their end")
        fault.happened.append(f"dvc and {stage} ended after {time.monotonic() - killed:.0f} s")
    if left():
        fault.problems.append("dvc and its stage continue without their flow")
    fault.happened.append(f"the run is {there.last_state(120)} after {time.monotonic() - killed:.0f} s")
    there.start()
    there.repro.until_further(position)
    fault.recovered = time.monotonic() - killed


def _server_killed(there: Deployed, position: Position, fault: Fault) -> None:
    for process in there.server():
        process.kill()
        fault.kills += 1
    killed = time.monotonic()
    time.sleep(2)
    waited(there.state, 120, "the server again")
    fault.happened.append(f"it answers again after {time.monotonic() - killed:.0f} s")
    there.repro.until_further(position)
    fault.recovered = time.monotonic() - killed
    fault.happened.append(f"the run is {there.state()}")
    if there.state() not in ("Running", "Completed"):
        fault.problems.append("the run did not outlast it")


# The store


class Store:
    """An S3 server that can be killed, and comes back with the same data on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, contextlib.ExitStack()
        self.environment = self._running.enter_context(server(folder, BUCKET, "chaos", "a-secret-of-nobody"))

    def fail(self, seconds: float) -> threading.Thread:
        """Kill it by SIGKILL now; the thread ends when it is back."""
        (process,) = (
            each for each in psutil.Process().children() if f"-dir={self._folder / 'data'}" in each.cmdline()
        )
        process.kill()
        self._running.close()

        def back() -> None:
            time.sleep(seconds)
            port = int(self.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
            self._running.enter_context(server(self._folder, BUCKET, "chaos", "a-secret-of-nobody", port))

        thread = threading.Thread(target=back)
        thread.start()
        return thread

    def close(self) -> None:
        self._running.close()


@contextlib.contextmanager
def store(folder: Path) -> Iterator[Store]:
    """A server, and its variables in our own environment while it runs."""
    before, found = dict(os.environ), Store(folder)
    os.environ |= found.environment
    try:
        yield found
    finally:
        os.environ.clear()
        os.environ.update(before)
        found.close()


def store_in_training(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """The checkpoints lie on S3, whose server is killed in the middle of a training and comes back."""
    workspace = bench.started_from(bench.pruned, "store")
    fault = Fault(
        f"kill -9 of the S3 server, {OUTAGE_SECONDS:.0f} s outage, in a training",
        "waited for, or the stage ends with one line; then `dvc repro` resumes from the last epoch",
    )
    with store(bench.folder / "s3-training") as there:
        workspace.set_ray(storage=f"s3://{BUCKET}/runs")
        repro = workspace.repro()
        kill = Kill("store", "distill", draw.randrange(2, EPOCHS - 4), 0.0, draw.uniform(0, 0.5))
        if not reached(repro, kill, bench, fault) or (position := repro.position()) is None:
            fault.happened.append(MISSED)
            return [fault]
        before = workspace.rows("distill")
        fault.point, fault.kills, killed = f"distill, after epoch {len(before)}", 1, time.monotonic()
        back = there.fail(OUTAGE_SECONDS)
        noticed(repro, position, killed, fault)
        back.join()
        if repro.ended() and repro.process.returncode != 0:
            repro = resumed(workspace, position, fault)
        fault.recovered = time.monotonic() - killed
        fault.happened.append(went_on(workspace, "distill", before))
        bench.judge(workspace, [fault], repro.wait())
    return [fault]


def store_in_promotion(bench: ReferenceRun, draw: random.Random) -> list[Fault]:
    """The releases lie on S3, whose server is killed while `akgp release promote` runs, and comes back."""
    workspace = bench.started_from(bench.done, "promotion")
    fault = Fault(
        f"kill -9 of the S3 server, {OUTAGE_SECONDS:.0f} s outage, in a promotion",
        "waited for; the release is whole and in production",
    )
    file = workspace.root / "params.yaml"
    with store(bench.folder / "s3-promotion") as there:
        file.write_text(
            file.read_text(encoding="utf-8").replace(
                "releases: releases", f"releases: s3://{BUCKET}/releases"
            ),
            encoding="utf-8",
        )
        akgp = str(Path(sys.executable).with_name("akgp"))
        process = workspace.started(akgp, "release", "promote")
        fault.delay = draw.uniform(0.5, 8)
        time.sleep(fault.delay)
        if process.poll() is not None:
            fault.happened.append(MISSED)
            return [fault]
        fault.point, fault.kills, killed = "akgp release promote", 1, time.monotonic()
        back = there.fail(OUTAGE_SECONDS)
        status = process.wait(STAGE_SECONDS)
        fault.recovered = time.monotonic() - killed
        back.join()
        waiting = workspace.line("tried again in")
        fault.happened.append(f"ended with {status}: {workspace.said()[-1]!r}; while waiting: {waiting!r}")
        listed = workspace.started(akgp, "release", "show", log="show").wait()
        fault.happened.append(f"`akgp release show` ends with {listed}")
        if status != 0 or listed != 0:
            fault.problems.append("no whole release is in production")
        bench.judge(workspace, [fault], status)
    return [fault]
