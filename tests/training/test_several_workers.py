from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch
from akgp.distillation import SelfDistillation
from akgp.models import cifar_resnet
from akgp.params import Distill, Training
from akgp.training import (
    Epoch,
    TrainingError,
    cross_entropy,
    evaluate,
    train,
)
from tests.support.trainings import Learning, dropping, from_disk, images, network, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers makes of `_linear`, `_interrupted`, `_learning` and `_self_taught`."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(_worker, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    made = {"linear": _linear(), "interrupted": _interrupted(rank), "learning": _learning(rank)}
    torch.save(made | {"self_taught": _self_taught()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _linear() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    *_, last = train(
        model, images(50), images(25, 1), objective=cross_entropy(), seed=3,
        params=Training(epochs=2, batch_size=16, learning_rate=0.05, precision="fp32"),
    )  # fmt: skip
    measured = evaluate(model, images(25, 1))
    return {"row": last.row, "model": model.state_dict(), "measured": list(measured)}


def test_two_workers_train_as_one(workers: list[dict[str, Any]]) -> None:
    """Without BatchNorm the mean of two half batches' gradients is the whole batch's."""
    one, two = _linear(), workers[0]["linear"]
    for key in ("val_top1", "val_balanced_top1"):
        assert two["row"][key] == one["row"][key], key
    for key in ("loss", "val_loss", "train_top1"):
        assert two["row"][key] == pytest.approx(one["row"][key], rel=1e-5)
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-6)
    assert two["measured"] == pytest.approx(one["measured"], rel=1e-5), "each image is counted once"


def _learning(rank: int) -> dict[str, Any]:
    """Worker 1's objective begins with other numbers, which it must give up."""
    torch.manual_seed(0)
    model, objective = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), Learning(seed=rank)
    params = Training(epochs=2, batch_size=16, learning_rate=0.05, precision="fp32")
    run(params, model=model, objective=objective)
    return {"model": model.state_dict(), "objective": objective.state_dict()}


def test_two_workers_train_an_objective_as_one(workers: list[dict[str, Any]]) -> None:
    one, (two, other) = _learning(0), (worker["learning"] for worker in workers)
    for part in ("model", "objective"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(two[part][name], other[part][name]), name


def _self_taught() -> dict[str, Any]:
    """Hooks on the network, heads with BatchNorm: undisturbed, then in two parts."""
    params = Training(epochs=2, batch_size=16, learning_rate=0.1, ema=0.5, keep="last", precision="bf16")

    def once(**options: Any) -> tuple[dict[str, Any], Epoch]:
        torch.manual_seed(0)
        model = cifar_resnet(8, (4, 8, 8), num_classes=3)
        objective = SelfDistillation(
            model, Distill(strategy="self_distillation"), torch.zeros(1, 3, 8, 8), prior=None
        )
        _, epochs = run(params, model=model, objective=objective, **options)
        return model.state_dict() | objective.state_dict(), epochs[-1]

    whole, _ = once()
    _, first = once(stop=1)
    states = [from_disk(first.state)]
    torch.distributed.broadcast_object_list(states, 0)
    return {"whole": whole, "resumed": once(state=states[0])[0]}


def test_two_workers_agree_on_self_distillation(workers: list[dict[str, Any]]) -> None:
    zero, one = (worker["self_taught"] for worker in workers)
    for name, tensor in zero["whole"].items():
        for other in (zero["resumed"], one["whole"], one["resumed"]):
            assert torch.equal(tensor, other[name]), name


def _interrupted(rank: int) -> dict[str, Any]:
    """A network with BatchNorm, dropout and an average, trained by two: undisturbed, then in two parts.

    Worker 1 resumes from worker 0's state, the only one that is written.
    """
    params = Training(epochs=2, batch_size=16, learning_rate=0.1, ema=0.5, keep="last")
    whole, epochs = run(params, model=dropping())
    _, (first,) = run(params, model=dropping(), stop=1)
    states = [from_disk(first.state)]
    torch.distributed.broadcast_object_list(states, 0)
    resumed, (second,) = run(params, model=dropping(), state=states[0])
    errors = []
    failing = [
        lambda: run(params, model=network(), count=1),
        lambda: run(params.model_copy(update={"batch_size": 15}), model=network()),
        lambda: run(params, model=Unused()),
        lambda: run(params, model=network(), objective=Idle()),
        lambda: run(params, model=network(), objective=lambda _, z, __: z.sum() * (math.nan if rank else 1)),
    ]
    for call in failing:
        with pytest.raises(TrainingError) as raised:
            call()
        errors.append(str(raised.value))
    return {
        "whole": whole.state_dict(),
        "resumed": resumed.state_dict(),
        "rows": [epochs[-1].row["val_loss"], second.row["val_loss"]],
        "errors": errors,
    }


class Idle(Learning):
    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(logits * self.scale, batch.labels)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(192, 3), nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


def test_two_workers_agree(workers: list[dict[str, Any]]) -> None:
    """On the network that is validated and kept, after an interruption too, and on what is wrong."""
    zero, one = (worker["interrupted"] for worker in workers)
    for name, tensor in zero["whole"].items():
        for other in (zero["resumed"], one["whole"], one["resumed"]):
            assert torch.equal(tensor, other[name]), name
    kept = dropping()
    kept.load_state_dict(zero["whole"])
    val_loss, *_ = evaluate(kept, images(24, 1))
    assert zero["rows"] == one["rows"] == pytest.approx([val_loss, val_loss])
    assert (
        zero["errors"]
        == one["errors"]
        == [
            "got 1 training images for 2 workers: use fewer workers",
            "batch_size (15) must be divisible by the 2 workers",
            "the loss does not depend on spare.weight, spare.bias: with several workers every parameter must "
            "take part; remove or freeze (requires_grad_(False)) the others, or train with one worker",
            "the loss does not depend on head.weight, head.bias: with several workers every parameter must "
            "take part; remove or freeze (requires_grad_(False)) the others, or train with one worker",
            "loss is nan in epoch 1: lower learning_rate (0.1) or raise warmup_epochs (0.5)",
        ]
    )
