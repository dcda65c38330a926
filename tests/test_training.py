"""The training loop against its definition, torch's own schedulers, and itself interrupted."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from akgp.data.batches import epoch_batches
from akgp.data.images import Images
from akgp.params import Augment, Training
from akgp.training import TrainingError, autocast_dtype, cross_entropy, evaluate, learning_rate_factor, train

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STILL = Augment(crop_padding=0, flip=False)


def images(count: int = 48, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, :, :, :3] = (labels * 100).to(torch.uint8)[:, None, None, None]  # what is to be learned
    return Images(pixels, labels)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def run(params: Training, *, model: nn.Module | None = None, state=None, stop: int | None = None):
    model = model or network()
    epochs = []
    for epoch in train(
        model, images(), images(24, 1), mean=MEAN, std=STD, params=params, objective=cross_entropy(), seed=3,
        state=state,
    ):  # fmt: skip
        epochs.append(epoch)
        if len(epochs) == stop:
            break
    return model, epochs


def test_learns() -> None:
    model, epochs = run(Training(epochs=8, batch_size=16, learning_rate=0.1))
    assert epochs[-1].row["val_top1"] > 90  # a third by chance
    loss, top1 = evaluate(model, images(24, 1), mean=MEAN, std=STD)
    assert top1 == max(epoch.row["val_top1"] for epoch in epochs)
    assert loss < epochs[0].row["val_loss"]


def test_steps_are_nesterov_momentum_with_decay_on_matrices_alone() -> None:
    params = Training(
        epochs=2, batch_size=16, learning_rate=0.05, weight_decay=0.1, warmup_epochs=0, augment=STILL,
        channels_last=False, keep="last",
    )  # fmt: skip
    trained, _ = run(params)

    reference = network().double()
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    step = 0
    for epoch in range(2):
        for batch in epoch_batches(images(), batch_size=16, mean=MEAN, std=STD, augment=STILL, seed=3, epoch=epoch):
            step += 1
            rate = 0.05 * learning_rate_factor(step, 3, params)
            reference.train()
            loss = F.cross_entropy(reference(batch.inputs.double()), batch.labels)
            gradients = torch.autograd.grad(loss, list(reference.parameters()))
            with torch.no_grad():
                for (name, p), g in zip(reference.named_parameters(), gradients, strict=True):
                    g = g + (0.1 * p if p.ndim > 1 else 0)
                    velocity[name] = 0.9 * velocity[name] + g
                    p -= rate * (g + 0.9 * velocity[name])
    for (name, p), expected in zip(trained.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.double(), expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_follows_torchs_schedulers(schedule: str) -> None:
    params = Training(epochs=5, warmup_epochs=0, schedule=schedule)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
        if schedule == "cosine"
        else torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=50)
    )
    for step in range(1, 51):
        assert learning_rate_factor(step, 10, params) == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        reference.step()


def test_warmup_rises_linearly_to_the_peak() -> None:
    params = Training(epochs=5, warmup_epochs=1.0)
    factors = [learning_rate_factor(step, 10, params) for step in range(1, 51)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(factors[11:]) < 1
    assert factors[-1] < 0.01


@pytest.mark.parametrize("params", [
    Training(epochs=4, batch_size=16, learning_rate=0.1),
    Training(epochs=4, batch_size=16, learning_rate=0.1, ema=0.9, keep="last", schedule="linear"),
])  # fmt: skip
def test_an_interrupted_training_ends_as_an_undisturbed_one(params: Training) -> None:
    undisturbed, rows = run(params)
    _, before = run(params, stop=2)
    file = io.BytesIO()
    torch.save(before[-1].state, file)
    file.seek(0)
    resumed, after = run(params, model=network(seed=9), state=torch.load(file, weights_only=True))
    assert [epoch.row["epoch"] for epoch in after] == [3, 4]
    assert after[-1].row["val_loss"] == rows[-1].row["val_loss"]
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_last_keeps_the_last_and_best_the_best() -> None:
    model, epochs = run(Training(epochs=3, batch_size=16, learning_rate=0.1, keep="last"))
    assert evaluate(model, images(24, 1), mean=MEAN, std=STD)[0] == pytest.approx(epochs[-1].row["val_loss"])


def test_a_diverging_loss_names_the_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"epoch \d.*lower learning_rate \(10\.0\)"):
        run(Training(epochs=20, batch_size=16, learning_rate=10.0, weight_decay=1.0, augment=STILL))


def test_half_precision_on_a_processor_is_refused() -> None:
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", torch.device("cpu"))


def test_bf16_autocast_trains() -> None:
    _, epochs = run(Training(epochs=6, batch_size=16, learning_rate=0.1, precision="bf16"))
    assert epochs[-1].row["val_top1"] > 90


def _worker(rank: int, world: int, file: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    *_, last = train(
        model, images(50), images(25, 1), mean=MEAN, std=STD, objective=cross_entropy(), seed=3,
        params=Training(epochs=2, batch_size=16, learning_rate=0.05),
    )  # fmt: skip
    if rank == 0:
        torch.save({"row": last.row, "model": model.state_dict()}, results)
    torch.distributed.destroy_process_group()


def test_two_workers_train_as_one(tmp_path) -> None:
    """Without BatchNorm the sum of two half batches' gradients is the whole batch's."""
    outcome = {}
    for world in (1, 2):
        file = tmp_path / f"{world}.pt"
        torch.multiprocessing.spawn(_worker, (world, str(tmp_path / f"store{world}"), str(file)), nprocs=world)
        outcome[world] = torch.load(file, weights_only=True)
    one, two = outcome[1], outcome[2]
    assert two["row"]["val_top1"] == one["row"]["val_top1"]
    for key in ("loss", "val_loss", "train_top1"):
        assert two["row"][key] == pytest.approx(one["row"][key], rel=1e-5)
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-6)
