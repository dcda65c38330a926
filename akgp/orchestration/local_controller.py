"""A Ray Train job on a Ray of our own: its controller runs in the stage and starts workers alone.

Like akgp/orchestration/local_ray.py, this leans on inner names of Ray.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.runtime_context import RuntimeContext
from ray.train import Result
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from akgp.orchestration.local_ray import changed

CALLBACKS = {
    "DatasetsCallback",  # for Ray Data
    "PlacementGroupCleanerCallback",  # frees what a dead controller held: here Ray ends with the stage
}


class FixedWorkers(FixedScalingPolicy):
    """The workers that were asked for; no actor is started that would ask an autoscaler for machines."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


def lean(trainer: type[DataParallelTrainer]) -> type[DataParallelTrainer]:
    """`trainer`, but its controller runs in this process, and starts workers and nothing for CALLBACKS."""

    class Lean(trainer):
        def _initialize_and_run_controller(
            self, *, callbacks: list[Any], scaling_policy: Any, **others: Any
        ) -> Result:
            if type(scaling_policy) is FixedScalingPolicy:
                scaling_policy = FixedWorkers(self.scaling_config)
            controller = TrainController(
                callbacks=[each for each in callbacks if type(each).__name__ not in CALLBACKS],
                scaling_policy=scaling_policy,
                **others,
            )
            # It hands itself to its workers, which do not use it, as the actor that it is elsewhere.
            with changed(RuntimeContext, {"current_actor": None}):
                asyncio.run(controller.run())
            return controller.get_result()

    return Lean
