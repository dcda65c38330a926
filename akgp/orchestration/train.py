"""Ray Train jobs, one a stage, resumed where they were interrupted; nothing else starts Ray Train.

A stage names the module of a generator, `compute(task, out, state)`: it yields `Step`s, fills the folder
`out` with its artifacts and ends. On a worker every step becomes a report, its state a checkpoint, and
`out` the last checkpoint, from which the artifacts are moved into place here.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm.contrib.logging import logging_redirect_tqdm

from akgp import params as parameters
from akgp.io.atomic import atomic_directory, atomic_file
from akgp.io.errors import first_line
from akgp.io.storage import opened
from akgp.orchestration.capacity import await_nodes
from akgp.orchestration.checkpoints import discard, drop_damaged, last_checkpoint, remove, require_writable
from akgp.orchestration.cluster import make_readable
from akgp.orchestration.digest import code_of, digest
from akgp.orchestration.failures import WorkerLost, raise_cause
from akgp.orchestration.progress import bar
from akgp.orchestration.session import session
from akgp.orchestration.unchanged import require_unchanged
from akgp.orchestration.worker import ARTIFACT, Compute, work
from akgp.stages.notices import NOTICES
from akgp.stages.table import Stage
from akgp.workspace import StageError, Step, Task, require

if TYPE_CHECKING:
    from ray.train import Result, UserCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

T = TypeVar("T")

log = logging.getLogger(__name__)


def fit(task: Task, stage: Stage) -> None:
    """Run `compute` of the stage's module as a Ray Train job and move what it wrote to the stage's output.

    A job that was killed is resumed from its last step when this is called again for the same computation:
    its name holds a digest of the stage's parameters, the files that it reads and the code.

    Raises:
        StageError: an input is missing or a node cannot read it; Ray, its resources or its storage
            are not available; more workers were lost than `ray.max_failures`; `compute` raised an error;
            what it wrote, now in place, does not pass the stage's gate; params.yaml was changed meanwhile.
        ValueError: raised by `compute` on a worker, about the input.
    """
    from akgp.orchestration.callbacks import Rows

    inputs, ray_params = stage.inputs(task), task.params.ray
    require(*inputs)
    workers = ray_params.workers if stage.parallel else 1
    enough = min(ray_params.min_workers or workers, workers)
    name, storage = job_name(task, stage, inputs), storage_of(task)
    require_writable(storage)
    with session(ray_params, enough):
        _check_storage(storage, name)
        source = make_readable(task, inputs, f"{storage}/{name}")
        with bar(task, stage.steps(task)) as progress_file:
            job = partial(
                trainer, task, partial(computation, stage.module, stage.check), name, storage,
                workers if enough == workers else (enough, workers),
                [Rows(str(progress_file))], source, ray_params.address is None,
            )  # fmt: skip
            result = retry_lost_workers(lambda: result_of(job(), task.label), task, enough)
        if result.checkpoint is None:
            raise StageError(f"{task.label}: the job ended without its artifacts; see {storage}/{name}")
        require_unchanged(task, stage)  # before the checkpoints go: what is computed here is not lost
        with result.checkpoint.as_directory() as folder:
            _move_into_place(Path(folder) / ARTIFACT, stage.output(task), stage.files)
    discard(f"{storage}/{name}")
    if stage.gate:
        import_module(stage.gate).require(task)


def computation(
    module: str, check: str | None, task: Task, out: Path, state: dict[str, Any] | None
) -> Iterator[Step]:
    """The steps of a module's `compute`, after those of another module's `check`.

    Modules are sent by name and imported on the worker: torch, which takes 2 s of processor time, stays out
    of the driver and the controller.
    """
    if check and state is None:  # a resumed job has passed it
        lines = import_module(check).check(task)
        yield Step({NOTICES: lines} if lines else {})
    yield from import_module(module).compute(task, out, state)


def _move_into_place(written: Path, output: Path, files: Sequence[str]) -> None:
    """Replace the folder `output` by `written`; with `files`, replace only these files in it."""
    if not files:
        with atomic_directory(output) as new:
            copy_artifacts(written, new)
        return
    output.mkdir(exist_ok=True)
    for name in files:
        with atomic_file(output / name) as new:
            shutil.copyfile(written / name, new)


def copy_artifacts(written: Path, new: Path) -> None:
    """Copy a folder to another one, which may exist.

    Raises:
        StageError: a file cannot be copied; copytree itself raises a list of all such files.
    """
    try:
        shutil.copytree(written, new, dirs_exist_ok=True)
    except shutil.Error as error:
        *_, reason = error.args[0][0]
        raise StageError(f"{new}: cannot be written ({reason}); `dvc repro` tries it again") from error


def job_name(task: Task, stage: Stage, inputs: list[Path]) -> str:
    """The name of the task's job: the same for the same computation, which then resumes it."""
    name = digest(task, stage.keys_of(task), inputs, code_of(stage.module))
    return f"{task.label.replace('@', '-')}-{name}"


def storage_of(task: Task) -> str:
    """The URL or absolute path below which the task's jobs keep their checkpoints."""
    storage = task.params.ray.storage
    return storage if parameters.REMOTE.match(storage) else str((task.root / storage).resolve())


def _check_storage(storage: str, name: str) -> None:
    """Remove damaged checkpoints, and write an incomplete snapshot again, of the last checkpoint.

    Ray Train 2.60 does not write checkpoint_manager_snapshot.json atomically; after a kill in the middle
    `fit` would fail on every later attempt.

    Raises:
        StageError: the storage cannot be read, or a snapshot not be written.
    """
    try:
        drop_damaged(f"{storage}/{name}")
        _mend_snapshot(f"{storage}/{name}")
    except Exception as error:  # each file system has its own
        raise StageError(
            f"ray.storage: {storage}: cannot be read or written ({first_line(error)})"
        ) from error


def _mend_snapshot(run: str) -> None:
    filesystem, path = opened(run)
    snapshot = f"{path}/checkpoint_manager_snapshot.json"
    try:
        json.loads(filesystem.cat_file(snapshot) if filesystem.exists(snapshot) else b"{}")
    except json.JSONDecodeError:
        if last := last_checkpoint(run):
            log.warning("%s is damaged: the run goes on from %s", snapshot, last)
            filesystem.pipe_file(snapshot, _snapshot_of(last).encode())
        else:
            log.warning("%s is damaged: the run starts again", snapshot)
            remove(run)


def _snapshot_of(checkpoint: str) -> str:
    """The snapshot of a run with this checkpoint alone, as Ray writes it."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
        _TrainingResultState,
    )

    result = _TrainingResultState(checkpoint_dir_name=checkpoint, metrics={})
    state = _CheckpointManagerState(
        checkpoint_results=[result],
        checkpoint_report_indices=[0],
        latest_checkpoint_result=result,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=1,
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    return str(state.json())


def trainer(
    task: Task,
    compute: Compute,
    name: str,
    storage: str,
    workers: int | tuple[int, int],
    callbacks: list[UserCallback],
    source: str | None = None,
    local: bool = False,
) -> DataParallelTrainer:
    """The Ray Train job of `compute` on data-parallel workers, not started yet.

    Args:
        workers: how many, or the fewest and the most.
        source: the URL from which each worker downloads the workspace's files; None: they are at the driver's
            path.
        local: this process started Ray for this job alone, so its controller can run here.
    """
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    gpu = task.params.ray.gpus_per_worker > 0
    backend = None
    if workers != 1:  # torch.distributed; to import this takes as long as torch, here and in the controller
        from ray.train.torch import TorchConfig

        backend = TorchConfig(backend="nccl" if gpu else "gloo")

    class Interruptible(DataParallelTrainer):
        """A trainer that leaves Ctrl-C to Python: Ray's own handler would end this process with status 0."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    kind: type[DataParallelTrainer] = Interruptible
    if local:
        from akgp.orchestration.local_controller import with_controller_here

        kind = with_controller_here(kind)
    return kind(
        work,
        train_loop_config={"task": task, "compute": compute, "source": source},
        backend_config=backend,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": task.params.ray.cpus_per_worker} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            callbacks=callbacks,
            checkpoint_config=CheckpointConfig(num_to_keep=1),  # a run is only ever resumed from its last
            failure_config=FailureConfig(max_failures=0),  # see `retry_lost_workers`
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def retry_lost_workers(attempt: Callable[[], T], task: Task, workers: int) -> T:
    """The result of `attempt`, which on a cluster is repeated up to `ray.max_failures` times after a loss.

    Ray's own retries would repeat errors of the computation too.

    Args:
        workers: the fewest with which it runs.

    Raises:
        WorkerLost: more often than that, or on a local Ray.
    """
    retries_left = task.params.ray.max_failures if task.params.ray.address else 0
    while True:
        try:
            return attempt()
        except WorkerLost as error:
            if retries_left == 0:
                raise
            with logging_redirect_tqdm():
                log.warning("%s", str(error).replace("`dvc repro`", "it"))
            retries_left -= 1
            await_nodes(task.params.ray, workers)


def result_of(job: DataParallelTrainer, label: str) -> Result:
    """Run the job; return its result, or raise the cause of its failure, see `raise_cause`."""
    from ray.train import TrainingFailedError

    try:
        return job.fit()
    except TrainingFailedError as error:
        failures = [*(getattr(error, "worker_failures", None) or {}).values()] or [
            getattr(error, "controller_failure", error)
        ]
        raise_cause(label, error, failures)
