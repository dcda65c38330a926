"""Clusters of Ray on this machine, and the S3 server's key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from akgp.orchestration.session import ENVIRONMENT

BUCKET, ACCESS_KEY, SECRET_KEY = "akgp-tests", "AKGPTESTACCESSKEY", "secret-of-the-test-server"


@contextlib.contextmanager
def ray_cluster(head_cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` on this machine, whatever Ray has run in this process before."""
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        variables = ENVIRONMENT | {
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "1",
            "RAY_prestart_worker_first_driver": "0",  # processes that wait for code that never comes
        }
        for name, value in variables.items():
            patched.setenv(name, value)
        patched.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # a local Ray leaves it off
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus})
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
