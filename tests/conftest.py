"""What several test files share: a real S3 server, started when a test asks for it, and Ray clusters."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.s3 import client, server
from tests.support.clusters import ACCESS_KEY, BUCKET, SECRET_KEY

# Tiny tensors are slower on several threads, much slower beside another computation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nobody's settings: of stores, servers and clusters other than the tests' own.
for name in [*os.environ]:
    if name.startswith(("AWS_", "RAY_", "PREFECT_", "DVC_")) or name == "AKGP_TRACEBACK":
        del os.environ[name]
# A command in a shell's background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tutorial, by far the longest, begins first, so that the other workers don't wait for it."""
    items.sort(key=lambda item: item.path.name != "test_tutorial.py")


@dataclass(frozen=True)
class S3:
    """A running server: an empty bucket of it, its address, and the environment its clients need."""

    bucket: str
    endpoint: str
    environment: dict[str, str]

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy all files below `folder` into the bucket; the s3:// address of the copy."""
        with client(self.environment) as s3:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    key = f"{prefix}/{file.relative_to(folder).as_posix()}"
                    s3.put_object(Bucket=self.bucket, Key=key, Body=file.read_bytes())
        return f"s3://{self.bucket}/{prefix}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server (SeaweedFS) on the loopback, on free ports; other credentials than its own are refused."""
    folder = tmp_path_factory.mktemp("s3")
    with server(folder, BUCKET, ACCESS_KEY, SECRET_KEY) as environment:
        yield S3(BUCKET, environment["AWS_ENDPOINT_URL"], environment)
