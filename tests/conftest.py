"""What several test files share: a real S3 server, started when a test asks for it, and Ray clusters."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from akgp.orchestration.session import ENVIRONMENT
from infra.s3 import client, server

# Tiny tensors are slower on several threads, much slower beside another computation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nobody's settings: of stores, servers and clusters other than the tests' own.
for name in [*os.environ]:
    if name.startswith(("AWS_", "RAY_", "PREFECT_", "DVC_")) or name == "AKGP_TRACEBACK":
        del os.environ[name]
# A command in a shell's background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BUCKET, ACCESS_KEY, SECRET_KEY = "akgp-tests", "AKGPTESTACCESSKEY", "secret-of-the-test-server"


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


@contextlib.contextmanager
def ray_cluster(head_cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` on this machine, whatever Ray has run in this process before."""
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        for name, value in (ENVIRONMENT | {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "1"}).items():
            patched.setenv(name, value)
        patched.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # a local Ray leaves it off
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus})
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
