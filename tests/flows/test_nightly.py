"""Nightly on real servers: its deployment with PostgreSQL, and what it leaves on disk and in S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from akgp.deployment import release
from tests.support.clusters import SECRET_KEY
from tests.support.downloads import download, holding
from tests.support.images import image_folder
from tests.support.releases import QUICK, candidate
from tests.support.servers import PARAMS, serving, wait_for

pytestmark = pytest.mark.slow

NOBODY = 65534


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database of a real PostgreSQL server, as Prefect takes it.

    It refuses to run as root, and nobody can't enter pytest's folders: so its folder is one of /tmp.
    """
    installed = shutil.which("initdb") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=""
    )
    if not installed:
        pytest.skip("no PostgreSQL server installed here (apt-get install postgresql)")
    programs = Path(installed).parent
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="akgp-postgres-"))
    try:
        if user:
            shutil.chown(folder, NOBODY, NOBODY)
        data = folder / "data"
        create = [programs / "initdb", "-D", data, "-U", "akgp", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, cwd=folder, **user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        with (folder / "log").open("w") as log, subprocess.Popen(
            serve, stdout=log, stderr=log, cwd=folder, **user
        ) as process:  # fmt: skip
            try:
                wait_for(
                    lambda: "ready to accept connections" in (folder / "log").read_text(), 60,
                    (folder / "log").read_text,
                )  # fmt: skip
                yield f"postgresql+asyncpg://akgp@127.0.0.1:{port}/postgres"
            finally:
                process.terminate()
                process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_on_postgresql_nightly_is_scheduled_and_fires(tmp_path: Path) -> None:
    from prefect.client.schemas.filters import DeploymentFilter
    from prefect.client.schemas.schedules import IntervalSchedule

    with (
        postgres() as database,
        serving(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=database) as server,
        server.client() as client,
    ):
        identity = server.start("compress/compress")
        run = server.ended(identity, 240)
        assert run.state.is_completed(), server.log()
        nightly = client.read_deployment_by_name("nightly/nightly")
        which = DeploymentFilter.model_validate({"id": {"any_": [nightly.id]}})
        wait_for(lambda: len(client.read_flow_runs(deployment_filter=which)) >= 3, 60, server.log)
        soon = datetime.now(UTC) + timedelta(seconds=12)
        hourly = IntervalSchedule(interval=timedelta(hours=1), anchor_date=soon)
        client.create_deployment_schedules(nightly.id, [(hourly, True)])
        wait_for(
            lambda: any(run.start_time for run in client.read_flow_runs(deployment_filter=which)), 120,
            server.log,
        )  # fmt: skip
        assert not list((tmp_path / ".akgp" / "prefect").glob("*.db"))  # all of it is in PostgreSQL


def test_the_stores_secret_is_written_nowhere(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images from S3, `dvc repro` and `dvc push`, a promotion to S3: all by the AWS variables alone."""
    root, stored = tmp_path / "root", tmp_path / "stored"
    environment = {
        **os.environ, **s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.upload(image_folder(tmp_path / "images", ("dark", "bright")), "secrets/images")
    root.mkdir()
    (root / "params.yaml").write_text(
        f"{PARAMS}{QUICK}data: {{source: image_folder, path: 's3://{s3.bucket}/secrets/images', color: gray, "
        f"image_size: 4, splits: {{calibration: 0.2, validation: 0.2, test: 0.2}}}}\n"
        f"release: {{releases: 's3://{s3.bucket}/secrets/releases'}}\n"
    )
    (root / "dvc.yaml").write_text(
        "stages:\n  data:\n    cmd: akgp stage data\n    params: [data]\n    outs: [data/prepared]\n"
    )
    said = ""

    def command(*words: str) -> str:
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return f"{done.stdout}{done.stderr}\n"

    said += command("git", "init", "--quiet")
    said += command("dvc", "init", "--quiet")
    said += command("dvc", "remote", "add", "-d", "store", f"s3://{s3.bucket}/secrets/dvc")
    said += command("dvc", "repro", "-v")
    said += command("dvc", "push", "-v")
    candidate(root)
    said += command("akgp", "release", "promote", "--force")
    said += command("akgp", "release", "show")
    said += command("akgp", "doctor")
    (root / "said").write_text(said)
    download(s3, "secrets/releases", stored)
    download(s3, "secrets/dvc", tmp_path / "remote")
    assert release.current(f"s3://{s3.bucket}/secrets/releases")
    assert len(list(stored.iterdir())) == 4 and list((tmp_path / "remote").iterdir())
    assert holding(SECRET_KEY, root, stored, tmp_path / "remote", tmp_path / "cache") == []


def test_a_push_that_fails_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is gone when `dvc push` starts: one line and a status; the next push carries all."""
    from tests.orchestration.test_s3 import BUCKET, Failing

    store = Failing(tmp_path / "s3")
    root = tmp_path / "root"
    root.mkdir()
    environment = {
        **os.environ, **store.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip

    def dvc(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)

    try:
        dvc("init", "--no-scm", "--quiet")
        dvc("remote", "add", "-d", "store", f"s3://{BUCKET}/dvc")
        for number in range(20):
            (root / f"{number}.txt").write_text(str(number))
        assert dvc("add", *(f"{number}.txt" for number in range(20))).returncode == 0
        store.stop()
        started = time.monotonic()
        failed = dvc("push")
        assert failed.returncode != 0 and "ERROR" in failed.stderr and "Traceback" not in failed.stderr
        assert time.monotonic() - started < 120
        store.start()
        done = dvc("push")
        assert done.returncode == 0 and "20 files pushed" in done.stdout + done.stderr, done
        assert "in sync" in (status := dvc("status", "--cloud")).stdout, status
    finally:
        store.stop()
