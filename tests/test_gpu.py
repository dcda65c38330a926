"""What a GPU computes, against the processor; skipped where there is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, BatchSource
from akgp.distillation import (
    LearnedTeachers,
    SelfDistillation,
    distillation_objective,
    frozen_teacher,
    train_measured,
)
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.evaluation import predict_logits
from akgp.models import cifar_resnet
from akgp.params import Distill, Training
from akgp.pruning import prune
from akgp.training import Epoch, Objective, autocast_dtype, cross_entropy, train
from tests.support.trainings import images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CUDA = torch.device("cuda")


def weighted(weight: float) -> BatchSource:
    """Training images, with weights of a teacher from 0 to `weight`, which distillation alone looks at."""
    return images(192).with_columns(**{TEACHER_WEIGHT: torch.linspace(0, weight, 192)})


def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, (8, 16, 32), num_classes=3)


def run(
    device: torch.device | str,
    *,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    state: dict[str, Any] | None = None,
    **params: Any,
) -> tuple[nn.Module, list[Epoch]]:
    given = {"epochs": 4, "batch_size": 48, "learning_rate": 0.05, "precision": "fp32"} | params
    model = model or network()
    epochs = train(
        model, weighted(1), images(96, 1), params=Training.model_validate(given),
        objective=objective or cross_entropy(), state=state, device=device, seed=3,
    )  # fmt: skip
    return model, list(epochs)


@pytest.fixture(autouse=True)
def exact() -> None:
    """fp32 is fp32: no TF32 in convolutions."""
    torch.backends.cudnn.allow_tf32 = False


def test_trains_as_the_processor_does() -> None:
    (gpu, on_gpu), (cpu, on_cpu) = run(CUDA, epochs=2), run("cpu", epochs=2)
    assert next(gpu.parameters()).is_cuda
    for one, other in zip(on_gpu, on_cpu, strict=True):
        for key in ("loss", "val_loss"):
            assert one.row[key] == pytest.approx(other.row[key], rel=1e-3)
    logits = [predict_logits(cpu, images(96, 1), device=on)
              for on in (CUDA, "cpu")]  # fmt: skip
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_graphs_train_as_their_network_does() -> None:
    (one, with_graphs), (other, without) = (run(CUDA, cuda_graphs=graphs) for graphs in (True, False))
    for mine, theirs in zip(with_graphs, without, strict=True):
        assert mine.row["loss"] == pytest.approx(theirs.row["loss"], rel=1e-3)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], tensor, rtol=2e-2, atol=2e-3, msg=name)
    with torch.no_grad():
        again = one.cpu()(torch.zeros(1, 3, 8, 8))
        torch.testing.assert_close(again, other.cpu()(torch.zeros(1, 3, 8, 8)), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_learns_in_every_precision(precision: str, graphs: bool) -> None:
    _, epochs = run(CUDA, precision=precision, epochs=8, ema=0.9, cuda_graphs=graphs)
    assert epochs[-1].row["val_top1"] > 90  # a third by chance
    if precision == "fp16":
        assert epochs[-1].state["optimization"]["scaler"]["scale"] > 0
    if precision == "auto":
        assert autocast_dtype("auto", CUDA) == torch.bfloat16


def test_learns_compiled() -> None:
    _, epochs = run(CUDA, compile=True, precision="bf16", epochs=8)
    assert epochs[-1].row["val_top1"] > 90


def test_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    undisturbed, _ = run(CUDA, precision="fp16")
    interrupted = train(
        network(), images(192), images(96, 1), objective=cross_entropy(), device=CUDA, seed=3,
        params=Training(epochs=4, batch_size=48, learning_rate=0.05, precision="fp16"),
    )  # fmt: skip
    next(interrupted)
    torch.save(next(interrupted).state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, epochs = run(CUDA, precision="fp16", state=state)
    assert [epoch.row["epoch"] for epoch in epochs] == [3, 4]
    for name, tensor in undisturbed.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


def test_every_kind_of_distillation() -> None:
    teacher, _ = run(CUDA, epochs=8)
    prior = torch.zeros(3, device=CUDA)
    example = torch.zeros(1, 3, 8, 8)

    def student() -> nn.Module:
        return prune(copy.deepcopy(teacher).cpu(), example, ratio=0.5, round_to=4).model

    def taught(**params: Any) -> Objective:
        return distillation_objective([frozen_teacher(teacher)], Distill.model_validate(params), prior=prior)

    for strategy in ("akgp", "wsld", "dkd", "annealed"):
        _, epochs = run(CUDA, model=student(), objective=taught(strategy=strategy), precision="auto")
        assert epochs[-1].row["val_top1"] > 60, strategy
    learned = LearnedTeachers(
        [frozen_teacher(teacher)] * 2, Distill(strategy="amtml_kd"), num_classes=3, prior=None
    )
    _, epochs = run(CUDA, model=student(), objective=learned)
    assert epochs[-1].row["val_top1"] > 60
    pruned = student()
    alone = SelfDistillation(pruned, Distill(strategy="self_distillation"), example, prior=None)
    _, epochs = run(CUDA, model=pruned, objective=alone)
    assert epochs[-1].row["val_top1"] > 60
    *_, last = train_measured(
        student(), weighted, images(96, 1), images(96, 2), prior=0.7, class_counts=torch.full((3,), 64),
        objective=lambda w0: distillation_objective(
            [frozen_teacher(teacher)], Distill(w0=w0), prior=None
        ),
        params=Training(epochs=6, batch_size=48, learning_rate=0.05, cuda_graphs=True), device=CUDA, seed=3,
    )  # fmt: skip
    assert 0 <= last.state["measured"]["weight"] <= 1


def workers(folder: Path, count: int, backend: str, **params: Any) -> list[dict[str, Any]]:
    torch.multiprocessing.spawn(_worker, (count, str(folder), backend, params), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _worker(rank: int, world: int, folder: str, backend: str, params: dict[str, Any]) -> None:
    torch.backends.cudnn.allow_tf32 = False
    store = f"file://{folder}/store"
    torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=world)
    model, epochs = run(CUDA, epochs=2, **params)
    torch.save({"row": epochs[-1].row, "model": model.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_nccl(tmp_path: Path) -> None:
    (worker,) = workers(tmp_path, 1, "nccl")
    _, epochs = run(CUDA, epochs=2)
    assert worker["row"]["loss"] == pytest.approx(epochs[-1].row["loss"], rel=1e-3)


def test_workers_with_common_batch_norm_train_as_one(tmp_path: Path) -> None:
    """Two workers share the GPU, by gloo, as NCCL refuses; without it their statistics are half batches'."""
    alone, epochs = run(CUDA, epochs=2)
    (tmp_path / "common").mkdir()
    common = workers(tmp_path / "common", 2, "gloo", sync_batch_norm=True)
    apart = workers(tmp_path, 2, "gloo")

    def off(row: dict[str, float]) -> float:
        return abs(row["loss"] - epochs[-1].row["loss"]) / epochs[-1].row["loss"]

    assert off(common[0]["row"]) < 1e-3 < off(apart[0]["row"])
    for name, tensor in alone.state_dict().items():
        mine: Tensor = common[0]["model"][name]
        torch.testing.assert_close(mine, tensor, rtol=2e-2, atol=2e-3, msg=name)
        assert torch.equal(mine, common[1]["model"][name]), name


def test_batches_are_drawn_alike_on_every_device() -> None:
    seen: dict[str, list[Batch]] = {"cuda": [], "cpu": []}

    def watching(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        seen[batch.inputs.device.type].append(batch)
        return logits.sum() * 0

    for device in seen:
        run(device, objective=watching, epochs=2)
    for one, other in zip(*seen.values(), strict=True):
        assert torch.equal(one.index.cpu(), other.index.cpu())
        torch.testing.assert_close(one.inputs.cpu(), other.inputs.cpu())
