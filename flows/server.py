"""A Prefect server with the deployments of prefect.yaml and a worker: `python -m flows.server`.

One server a workspace: its database lies in .akgp/prefect, or where PREFECT_API_DATABASE_CONNECTION_URL
says (postgresql+asyncpg://…). It listens on the loopback only. Ctrl-C ends the runs, the worker and
the server; one of the two that ends by itself is started again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from akgp.cli import console, home
from akgp.io.ports import tcp_port
from flows import LOGGING_LEVEL
from flows.processes import end_as_by_ctrl_c

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POOL = "akgp"
HOST = "127.0.0.1"
PORT = "PREFECT_SERVER_API_PORT"
STATE = Path(".akgp")
START_SECONDS = 120
STOP_SECONDS = 25  # includes flows.processes.GRACE_SECONDS for the stage of a cancelled run
RESTART_SECONDS = 5.0  # so that one which ends at once is not started in a tight loop
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
WORKER = [*PREFECT, "worker", "start", "--pool", POOL, "--name", POOL, "--limit", "1"]
WORKER += ["--install-policy", "never"]


class ServerError(RuntimeError):
    """The server cannot run; the message says why and what to do."""


def serve(port: int) -> None:
    """Run server and worker for the working directory until interrupted.

    Raises:
        ServerError: one runs in this workspace already, it does not start, or prefect.yaml is not valid.
    """
    STATE.mkdir(exist_ok=True)
    lock = FileLock(STATE / "server.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ServerError("a server runs in this workspace already; end it first") from None
    with socket.socket() as probe:  # another server on this port would answer in place of this one
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(f"port {port}: {error.strerror}; make server PORT=… takes another") from None
    environment = settings(port)
    os.environ |= environment  # for the client in this process, which reads them when imported
    server = [*PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
    with lock, contextlib.ExitStack() as processes:
        commands = {"server": server, "worker": WORKER}
        running = {"server": processes.enter_context(_running(server))}
        _await(running["server"], environment["PREFECT_API_URL"])
        prepare()
        running["worker"] = processes.enter_context(_running(WORKER))
        address = environment["PREFECT_API_URL"]
        print(f"flows: ready; in another shell: export PREFECT_API_URL={address}", flush=True)
        try:
            while True:
                for name, process in running.items():
                    if (status := process.poll()) is not None:
                        print(f"flows: the {name} ended ({status}) and is started again", flush=True)
                        time.sleep(RESTART_SECONDS)
                        running[name] = processes.enter_context(_running(commands[name]))
                time.sleep(0.5)
        finally:
            cancel_runs()


def settings(port: int) -> dict[str, str]:
    """Environment variables of server, worker and runs; variables that the user has set take precedence."""
    defaults = {
        "PREFECT_HOME": str((STATE / "prefect").resolve()),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "10",
        # In memory, leases would be lost when the server is restarted, and a run ends if its lease cannot be
        # renewed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    if authentication := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        defaults["PREFECT_API_AUTH_STRING"] = authentication
    return {name: os.environ.get(name, value) for name, value in defaults.items()} | {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        PORT: str(port),  # Prefect reads it too, and --port takes precedence
        "PREFECT_LOGGING_LEVEL": LOGGING_LEVEL or "INFO",  # silenced for a flow at a terminal alone
    }


def prepare() -> None:
    """Create the pool (one run at a time) and the deployments; end runs of an earlier server.

    A run without a process would otherwise hold the pool's only slot, so that no other could start.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", concurrency_limit=1), overwrite=True
        )
        for run in _unfinished(client):
            client.set_flow_run_state(run.id, Crashed(message="its server ended before it"), force=True)
    done = subprocess.run([*PREFECT, "deploy", "--all"], capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise ServerError(f"prefect.yaml cannot be deployed:\n{done.stdout}{done.stderr}".rstrip())


def cancel_runs() -> None:
    """Have the worker cancel every run with its processes; if terminated, it would wait for them forever."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        for run in _unfinished(client):
            print(f"flows: {run.name} is cancelled", flush=True)
            client.set_flow_run_state(run.id, Cancelling(message="the server was stopped"))
        while _unfinished(client) and time.monotonic() < deadline:
            time.sleep(0.2)


def _unfinished(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs that hold a slot of the pool."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    return client.read_flow_runs(
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        flow_run_filter=FlowRunFilter.model_validate(states),
    )


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a new session, so that Ctrl-C does not reach it: `serve` ends all in order."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:  # URLError is one
            pass
        time.sleep(0.2)
    raise ServerError("the Prefect server does not start: see its lines above")


def main() -> None:
    console.set_up()
    home.set_up(Path())
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("--port", type=tcp_port, help=f"on the loopback; default: {PORT}, else 4200")
    try:
        port = parser.parse_args().port or tcp_port(os.environ.get(PORT, "4200"))
    except argparse.ArgumentTypeError as error:
        parser.error(f"{PORT}: {error}")
    # A shell starts background processes with SIGINT ignored, and the worker would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_as_by_ctrl_c()
    try:
        serve(port)
    except ServerError as error:
        sys.exit(f"akgp: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
