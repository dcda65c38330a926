"""What several test files share: a real S3 server, started when the first test asks for it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Tiny tensors are slower on several threads, much slower beside another computation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BUCKET, ACCESS_KEY, SECRET_KEY = "akgp-tests", "AKGPTESTACCESSKEY", "secret-of-the-test-server"
PORTS = (
    "admin.port", "admin.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc",
    "s3.port", "s3.port.grpc", "volume.port", "volume.port.grpc",
)  # fmt: skip
START_SECONDS = 60


@dataclass(frozen=True)
class S3:
    """A running server: an empty bucket of it, its address, and the environment its clients need."""

    bucket: str
    endpoint: str
    environment: dict[str, str]

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy all files below `folder` into the bucket; the s3:// address of the copy."""
        with _client(self.endpoint) as client:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    key = f"{prefix}/{file.relative_to(folder).as_posix()}"
                    client.put_object(Bucket=self.bucket, Key=key, Body=file.read_bytes())
        return f"s3://{self.bucket}/{prefix}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server (SeaweedFS) on the loopback, on free ports; other credentials than its own are refused."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "data").mkdir()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    options = {
        "dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": folder / "s3.json",
        "bucket": BUCKET, "master.telemetry": "false", "webdav": "false", "admin.ui": "false",
        "filer.localSocket": folder / "filer.sock", "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0, "s3.port.lance": 0, **ports,
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("weed")), "-logtostderr", "mini"]
    command += [f"-{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w") as log, subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=log, env={"HOME": str(folder)}
    ) as server:  # fmt: skip
        try:
            _await(server, endpoint, folder / "log")
            yield S3(
                BUCKET,
                endpoint,
                {
                    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                    "AWS_ENDPOINT_URL": endpoint,
                    "AWS_REGION": "us-east-1",
                    "AWS_DEFAULT_REGION": "us-east-1",
                },
            )
        finally:
            server.terminate()  # killed, it would leave its sockets in /tmp
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _await(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Wait until the bucket is there; the server's own words if it isn't."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + START_SECONDS
    with _client(endpoint) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.head_bucket(Bucket=BUCKET)
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
    raise RuntimeError(f"the S3 server didn't start:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def _client(endpoint: str) -> Iterator[Any]:
    from botocore.config import Config
    from botocore.session import get_session

    client = get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY, config=Config(connect_timeout=2, retries={"max_attempts": 0}),
    )  # fmt: skip
    try:
        yield client
    finally:
        client.close()
