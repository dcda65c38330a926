"""Ray Train's controller in the stage's own process, on a local Ray.

As an actor, a process that imports ray.train before it starts the workers, it cost each stage some 4 s
(Ray 2.60). Like akgp/orchestration/local_ray.py, this uses private names of Ray.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.runtime_context import RuntimeContext
from ray.train import Result
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from akgp.orchestration.local_ray import patched

CALLBACKS = {
    "DatasetsCallback",  # for Ray Data
    "PlacementGroupCleanerCallback",  # frees what a dead controller held: here Ray ends with the stage
}


class FixedWorkers(FixedScalingPolicy):
    """A fixed number of workers, without the actor that would request machines from an autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


def with_controller_here(trainer: type[DataParallelTrainer]) -> type[DataParallelTrainer]:
    """A subclass of `trainer` whose controller runs in this process, without CALLBACKS and their actors."""

    class WithControllerHere(trainer):
        def _initialize_and_run_controller(
            self, *, callbacks: list[Any], scaling_policy: Any, **others: Any
        ) -> Result:
            # The elastic policy, of a cluster's `ray.min_workers`, is left as it is.
            if type(scaling_policy) is FixedScalingPolicy:
                scaling_policy = FixedWorkers(self.scaling_config)
            controller = TrainController(
                callbacks=[each for each in callbacks if type(each).__name__ not in CALLBACKS],
                scaling_policy=scaling_policy,
                **others,
            )
            # The controller passes its own actor handle to the workers, which do not use it. Here it is no
            # actor, and `current_actor` would raise.
            with patched(RuntimeContext, {"current_actor": None}):
                asyncio.run(controller.run())
            return controller.get_result()

    return WithControllerHere
