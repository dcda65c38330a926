"""A Ray of our own, for one stage: what serves a cluster that others share is not started.

Beside a stage that computes for seconds, such processes are most of what it costs: each is a Python of
1 to 3 seconds of processor time, and some are waited for one after the other. This leans on inner names
of Ray: where another version calls a service or a callback differently, it is started, and the result is
the same. tests/test_stages.py says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray._private.node import Node
from ray.train import Result
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

SERVICES = (
    "start_api_server",
    "start_log_monitor",
    "start_monitor",
)  # dashboard, logs to the driver, autoscaler
CALLBACKS = {
    "DatasetsCallback",  # for Ray Data
    "PlacementGroupCleanerCallback",  # frees what a dead controller held: here Ray ends with the stage
}


@contextlib.contextmanager
def without_services() -> Iterator[None]:
    """A Ray that is started in this block starts what computes, and none of SERVICES."""
    methods = {name: vars(Node)[name] for name in SERVICES if name in vars(Node)}
    for name in methods:
        setattr(Node, name, lambda *arguments, **options: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


class FixedWorkers(FixedScalingPolicy):
    """The workers that were asked for; no actor is started that would ask an autoscaler for machines."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


def lean(trainer: type[DataParallelTrainer]) -> type[DataParallelTrainer]:
    """`trainer`, but its controller starts the workers and nothing for what CALLBACKS are for."""

    class Lean(trainer):
        def _initialize_and_run_controller(
            self, *, callbacks: list[Any], scaling_policy: Any, **others: Any
        ) -> Result:
            if type(scaling_policy) is FixedScalingPolicy:
                scaling_policy = FixedWorkers(self.scaling_config)
            callbacks = [each for each in callbacks if type(each).__name__ not in CALLBACKS]
            return super()._initialize_and_run_controller(
                callbacks=callbacks, scaling_policy=scaling_policy, **others
            )

    return Lean
