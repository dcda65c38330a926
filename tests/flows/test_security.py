"""Authentication switched on: Ray's token and Prefect's password are asked for, and are written nowhere."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akgp import params
from akgp.orchestration.run import run_stage
from akgp.orchestration.session import WAITING
from tests.support.downloads import download, holding
from tests.support.servers import wait_for

ROOT = Path(__file__).parents[2]
AKGP = str(Path(sys.executable).with_name("akgp"))
RAY = str(Path(sys.executable).with_name("ray"))


def write_params(root: Path, ray: dict[str, Any]) -> None:
    """One training of seconds, as the params.yaml of `root`."""
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet8", "widths": [8, 8, 16]}},
        "teachers": ["small"],
        "student": "small",
        "teacher": {"epochs": 2, "batch_size": 64, "learning_rate": 0.1},
        "ray": {"cpus_per_worker": 1} | ray,
    }
    (root / "params.yaml").write_text(params.dump(params.validate(tree)))


def clean(**variables: str) -> dict[str, str]:
    """The environment without anybody's settings of Ray and Prefect, and with these."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PREFECT_"))}
    return kept | variables


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def head(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a Ray head that keeps its session in `folder`."""
    port = free_port()
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=1",
        "--include-dashboard=false",
    ]
    command += [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    with (folder.parent / "head.log").open("w") as log, subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, start_new_session=True
    ) as process:  # fmt: skip
        try:
            wait_for(
                lambda: "Ray runtime started" in (folder.parent / "head.log").read_text(), 180,
                lambda: (folder.parent / "head.log").read_text(),
            )  # fmt: skip
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.ray
def test_rays_token_and_the_stores_key_are_needed_and_not_written(s3: Any, tmp_path: Path) -> None:
    token, wrong = secrets.token_hex(32), secrets.token_hex(32)
    root, session = tmp_path / "root", Path("/tmp") / f"akgp-{secrets.token_hex(4)}"  # of short socket names
    root.mkdir()
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(token)
    session.mkdir()
    (tmp_path / "ray").symlink_to(session)
    aws = s3.environment
    try:
        with head(session, clean(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, **aws)) as address:
            write_params(root, {"address": address, "storage": f"s3://{s3.bucket}/secret"})
            run_stage("data", root=root)

            def teacher(**variables: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [AKGP, "stage", "teacher"], cwd=root, capture_output=True, text=True, timeout=300,
                    env=clean(RAY_AUTH_MODE="token", **variables, **aws),
                )  # fmt: skip

            refused = teacher(RAY_AUTH_TOKEN=wrong)
            assert refused.returncode == 1
            said = refused.stderr.splitlines()[-1]
            assert said.startswith(f"akgp: ray.address: {address!r}") and "RAY_AUTH_TOKEN" in said
            assert "Traceback" not in refused.stderr
            done = teacher(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
            assert done.returncode == 0, done.stderr
        (root / "said").write_text(refused.stdout + refused.stderr + done.stdout + done.stderr)
        stored = download(s3, "secret", tmp_path / "stored")
        for secret in (token, wrong, aws["AWS_SECRET_ACCESS_KEY"]):
            assert holding(secret, root, session, stored) == []
    finally:
        shutil.rmtree(session, ignore_errors=True)


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


LISTENING = """
import os, psutil, ray
from akgp.params import Ray
from akgp.orchestration.session import session

with session(Ray(cpus_per_worker=1), 1):
    print(ray.get(ray.remote(lambda: os.environ.get("OMP_WAIT_POLICY")).remote()))
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    print(*{each.laddr.ip for process in processes for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN})
"""


@pytest.mark.slow
def test_a_local_ray_listens_on_the_loopback_alone() -> None:
    """Its workers know how OpenMP's threads wait before they import torch."""
    environment = {key: value for key, value in clean().items() if key not in WAITING}
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    policy, *listening = done.stdout.split()
    assert policy == "PASSIVE"
    assert listening and {*listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_prefects_password_is_needed_and_not_written(tmp_path: Path) -> None:
    """A real server with basic authentication; the flow runs one stage in a process, as compress does."""
    password, port = f"admin:{secrets.token_hex(16)}", free_port()
    home = tmp_path / "prefect"
    url = f"http://127.0.0.1:{port}/api"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "flow.py").write_text(
        "from pathlib import Path\n"
        "from prefect import flow\n"
        "from flows.compress import publish\n"
        "from flows.processes import run\n\n"
        "@flow\n"
        "def check():\n"
        "    publish('help', run(['akgp.cli', '--help'], Path()))\n\n"
        "check()\n"
    )
    base = clean(PREFECT_HOME=str(home), PYTHONPATH=str(ROOT))
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "server.log"
    with log.open("w") as out, subprocess.Popen(
        server, stdout=out, stderr=out, env=base | {"PREFECT_SERVER_API_AUTH_STRING": password}
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: answers(f"{url}/health"), 240, log.read_text)

            def check(**variables: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [sys.executable, "flow.py"], cwd=tmp_path / "root", capture_output=True, text=True,
                    env=base | {"PREFECT_API_URL": url} | variables, timeout=300,
                )  # fmt: skip

            for wrong in ({}, {"PREFECT_API_AUTH_STRING": "admin:guessed"}):
                refused = check(**wrong)
                assert refused.returncode != 0 and "401" in refused.stderr, refused.stderr
            done = check(PREFECT_API_AUTH_STRING=password)
            assert done.returncode == 0, done.stderr
        finally:
            process.terminate()
            process.wait(30)
    (tmp_path / "root" / "said").write_text(done.stdout + done.stderr)
    for secret in (password, password.removeprefix("admin:")):
        assert holding(secret, tmp_path) == []  # the server's database and the artifact among them
