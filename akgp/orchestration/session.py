"""A connection to Ray: to a cluster, or to a local Ray that is started for it and ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from akgp import params as parameters
from akgp.io.errors import first_line
from akgp.orchestration.capacity import nodes, require_capacity, this_machine
from akgp.orchestration.cluster import runtime_env
from akgp.orchestration.ray_folder import ray_folder
from akgp.workspace import StageError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints tables whatever its verbosity
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # each report waits for it; 2 s by default
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # its own ends an interrupted run as if it were finished
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for which a trial waits until a stopped one leaves its process
}
LOCAL_ENVIRONMENT = {  # of a local Ray
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away
    "RAY_TRAIN_METRICS_ENABLED": "0",  # nobody collects them
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",  # for tasks; a job has actors alone
    "RAY_worker_niceness": "0",  # 15 by default; a stage has the priority of its command
}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables for how OpenMP's threads wait; GNU's (torch on Linux) reads the first two, LLVM's the others."""


def openmp() -> dict[str, str]:
    """Variables that let OpenMP's threads sleep while they wait, unless this environment sets them already.

    OpenMP reads them once, when torch is imported. A thread that spins takes processor time from the one
    that it waits for where cores are few (docs/explanation/threads.md); with one thread a worker it makes
    no difference.
    """
    chosen = {key: os.environ[key] for key in WAITING if key in os.environ}
    return chosen or {"OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def session(params: parameters.Ray, workers: int, trials: int | None = None) -> Iterator[None]:
    """A connection to the cluster at `params.address`, or a local Ray for the block's duration.

    Args:
        workers: that there must be room for; `trials` times as many for a sweep's trials at a time.

    Raises:
        StageError: nothing answers at the address, or there is no room for the workers.
    """
    if params.address is None:  # without starting Ray, which takes seconds; it may see fewer cores, though
        require_capacity([this_machine(params)], params, workers, trials)
    with _local_ray() if params.address is None else _cluster(params.address):
        require_capacity(nodes(), params, workers, trials)
        yield


@contextlib.contextmanager
def _local_ray() -> Iterator[None]:
    os.environ |= ENVIRONMENT | LOCAL_ENVIRONMENT | openmp()
    from akgp.orchestration.local_ray import reap_children, watch_ray, without_services

    _listen_on_loopback(True)
    # Outermost: it also ends what a failed or interrupted start leaves behind.
    with reap_children():
        with without_services():
            _connect(
                "Ray can't be started here: {}",
                address="local",
                include_dashboard=False,
                _temp_dir=ray_folder(),
            )
        with _disconnect_at_the_end(), watch_ray():
            yield


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    os.environ |= ENVIRONMENT
    _listen_on_loopback(False)
    if address != "auto":
        _check_answers(address)
    refused = (
        f"ray.address: {address!r}: {{}}; if the cluster asks for a token, set RAY_AUTH_MODE=token here and "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the same as there"
    )
    with runtime_env(ENVIRONMENT | openmp()) as environment:
        _connect(refused, address=address, runtime_env=environment)
    with _disconnect_at_the_end():
        yield


def _connect(refused: str, **options: Any) -> None:
    """Connect by `ray.init`.

    Args:
        refused: the message if it fails, with {} for the first line of the reason.

    Raises:
        StageError: it fails.
    """
    import ray

    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
    except Exception as error:  # Ray raises many kinds, bare ones among them
        raise StageError(refused.format(first_line(error))) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray's own prints its stack


@contextlib.contextmanager
def _disconnect_at_the_end() -> Iterator[None]:
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def _listen_on_loopback(alone: bool) -> None:
    """Let Ray's processes listen on 127.0.0.1 only (`alone`), or on all interfaces.

    The former is Ray's default on systems other than Linux. It decides when it is imported, by a variable
    that the processes it starts inherit: so both the variable and the imported constant are set.
    """
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = str(int(not alone))
    ray_constants.ENABLE_RAY_CLUSTER = not alone


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            pass
    except ValueError:
        raise StageError(f"ray.address: got {address!r}, must be null, auto or host:port") from None
    except OSError as error:
        raise StageError(f"ray.address: nobody answers at {address!r} ({error.strerror or error})") from None
