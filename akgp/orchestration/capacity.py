"""The nodes of a cluster: how many workers they have room for, asked and, after a loss, awaited."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from akgp.io.errors import first_line
from akgp.params import Ray
from akgp.workspace import StageError

ANSWER_SECONDS = 60  # a node's first task waits for a new process, and a dead node is noticed after about 20
REPLACEMENT_SECONDS = 300
COUNT_SECONDS = 21  # Ray's elastic scaling counts nodes every 20 s, and waits 60 s for those it miscounts


def nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def this_machine(params: Ray) -> dict[str, float]:
    """The resources of the only node that a local Ray has; GPUs are counted if a worker needs one."""
    have = {"CPU": float(os.cpu_count() or 1)}
    if params.gpus_per_worker:
        import torch

        have["GPU"] = float(torch.cuda.device_count())
    return have


def worker_capacity(have: list[dict[str, float]], params: Ray) -> int:
    """How many workers find room in `nodes`: each lies in one, and of their sum Ray would wait forever."""
    return sum(_node_capacity(resources, params) for resources in have)


def require_capacity(
    have: list[dict[str, float]], params: Ray, workers: int, trials: int | None = None
) -> None:
    """Raise StageError, which names the parameter to lower, unless the nodes have room for so many workers.

    Args:
        have: each node's resources.
        trials: how many of a sweep's run at a time, each with so many workers; None: it is not a sweep.
    """
    capacity = worker_capacity(have, params)
    if capacity >= workers * (trials or 1):
        return
    asked = (
        f"{workers} worker(s) with {params.cpus_per_worker} CPU(s) and {params.gpus_per_worker} GPU(s) each"
    )
    if trials:
        asked = f"{trials} trial(s) at a time, of {asked},"
    key, most = _to_lower(have, params, workers, trials)
    lower = "lower ray.workers or what each worker needs" if most is None else f"lower it to {most}"
    where, more = ("the cluster", ", or add nodes") if params.address else ("this machine", "")
    raise StageError(
        f"{key}: {asked} are asked for, but {where} has room for {capacity} worker(s), each in one node: "
        f"{lower}{more}"
    )


def await_nodes(params: Ray, workers: int) -> None:
    """After a loss: wait until it is known which nodes are left, and there are enough for `workers`.

    Raises:
        StageError: no replacement has come within REPLACEMENT_SECONDS.
    """
    with contextlib.suppress(StageError):  # a dead node is asked, too, until Ray knows that it is
        on_every_node(bool, True, params)
    deadline = time.monotonic() + REPLACEMENT_SECONDS
    while (capacity := worker_capacity(nodes(), params)) < workers:
        if time.monotonic() > deadline:
            raise StageError(
                f"ray.workers: nodes were lost and within {REPLACEMENT_SECONDS} s none came instead: of "
                f"{workers} worker(s) the others have room for {capacity}; `dvc repro` "
                "resumes from the last epoch; with ray.min_workers a run continues with fewer"
            )
        time.sleep(1)
    if params.min_workers is not None:
        time.sleep(COUNT_SECONDS)


def worker_resources(params: Ray) -> dict[str, int]:
    """What a worker takes of each resource of a node."""
    return {"CPU": params.cpus_per_worker, "GPU": params.gpus_per_worker}


def _node_capacity(resources: dict[str, float], params: Ray) -> int:
    """How many workers a node could hold, were they alone."""
    return min(
        int(resources.get(kind, 0) // count) for kind, count in worker_resources(params).items() if count
    )


def _to_lower(
    have: list[dict[str, float]], params: Ray, workers: int, trials: int | None
) -> tuple[str, int | None]:
    """The parameter that asks for too much, and its largest value that does not; None: not by it alone."""
    capacity = worker_capacity(have, params)
    if trials:
        return "sweep.concurrent", capacity // workers or None
    for kind, count in worker_resources(params).items():
        most = int(max((resources.get(kind, 0) for resources in have), default=0))
        if most < count:
            return f"ray.{kind.lower()}s_per_worker", most
    return "ray.workers", capacity or None


def on_every_node(call: Callable[[Any], Any], argument: Any, params: Ray) -> list[tuple[str, Any]]:
    """What `call(argument)` gives on each node that has room for a worker, and on the driver's; with address.

    Raises:
        StageError: a node does not answer within ANSWER_SECONDS.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Ray takes a function for a task; a class such as bool would be an actor, with other options.
    remote = ray.remote(num_cpus=0, max_retries=0)(lambda given: call(given))
    ours = ray.get_runtime_context().get_node_id()
    asked = [
        (
            f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})",
            remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(argument),
        )
        for node in ray.nodes()
        if node["Alive"] and (node["NodeID"] == ours or _node_capacity(node["Resources"], params))
    ]
    ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
    answers = []
    for node, answer in asked:
        try:
            answers.append((node, ray.get(answer, timeout=0)))
        except ray.exceptions.RayError as error:
            raise StageError(f"ray.address: node {node} does not answer ({first_line(error)})") from error
    return answers
