"""A Prefect server with deployments, and waiting for what it does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


ROOT = Path(__file__).parents[2]


PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


# Waiting for a minute would prove no more: polls of the worker, and of the scheduler for new schedules.
QUICKER = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}


PARAMS = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


# `last` starts a child and waits for it as long as there is a file `hang`.
GRAPH = """
stages:
  network_files:
    cmd: echo none
  data:
    cmd: echo data >> ran; echo the same > data.txt
    outs: [data.txt]
  last:
    cmd: >-
      echo last >> ran; if [ -e hang ]; then sleep 600 & echo $$ $! > pids; wait; fi;
      mkdir -p reports; cp metrics.json reports/metrics.json
    deps: [data.txt, metrics.json]
    outs: [reports/metrics.json]
"""


class Deployed:
    """A workspace, and what its server says."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], url: str) -> None:
        self.folder, self.process = folder, process
        self.environment = os.environ | {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder / "home")}

    def prefect(self, *arguments: str) -> str:
        """The output of `prefect arguments`, as a user would call it."""
        done = subprocess.run(
            [*PREFECT, *arguments], capture_output=True, text=True, env=self.environment, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, deployment: str, **parameters: Any) -> UUID:
        """Ask for a run."""
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            run: FlowRun = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        return run.id

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def run(self, identity: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(identity)

    def ended(self, identity: UUID, seconds: float = 180) -> FlowRun:
        """The run when it has ended by whatever means."""
        wait_for(lambda: self.run(identity).state.is_final(), seconds, self.log)
        return self.run(identity)

    def damage(self) -> None:
        """Make `last` run again, with results that DVC has not seen."""
        metrics = {"top1": 98.4, "params": 10, "macs": 100, "bytes": time.time_ns() % 10**9}
        (self.folder / "metrics.json").write_text(json.dumps({"dense": metrics}))

    def log(self) -> str:
        """All that server, worker and runs have said: a test looks for a line that many may follow."""
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Deployed]:
    """`python -m flows.server` in a workspace of shell stages, with these variables on top."""
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    (folder / "recipes").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copy(ROOT / "prefect.yaml", folder)
    shutil.copytree(ROOT / "flows", folder / "flows")
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "recipes" / "digits.yaml").write_text(PARAMS + "seed: 7\n")
    (folder / "params.yaml").write_text(PARAMS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    with (folder / "log").open("w") as log, subprocess.Popen(
        [sys.executable, "-m", "flows.server", "--port", str(port)],
        cwd=folder, stdout=log, stderr=log, env=clean | QUICKER | environment,
    ) as process:  # fmt: skip
        found = Deployed(folder, process, f"http://127.0.0.1:{port}/api")
        found.damage()
        try:
            wait_for(lambda: "flows: ready" in found.log() or process.poll() is not None, 240, found.log)
            assert process.poll() is None, found.log()
            yield found
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def wait_for(condition: Callable[[], bool], seconds: float, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)
