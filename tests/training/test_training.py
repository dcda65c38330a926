"""The training loop against its definition, torch's own schedulers, and itself interrupted."""

from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch, IndexedSource, normalize
from akgp.distillation import SelfDistillation
from akgp.models import cifar_resnet
from akgp.params import Augment, Distill, Training
from akgp.training import (
    Epoch,
    Objective,
    TrainingError,
    autocast_dtype,
    cross_entropy,
    evaluate,
    learning_rate_factor,
    train,
)

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STILL = Augment(crop_padding=0, flip=False)


def images(count: int = 48, seed: int = 0) -> IndexedSource:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, :, :, :3] = (labels * 100).to(torch.uint8)[:, None, None, None]  # what is to be learned
    return IndexedSource(pixels, labels, MEAN, STD)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def dropping() -> nn.Module:
    """A network whose every training step draws random numbers, with BatchNorm."""
    return nn.Sequential(*network()[:4], nn.Dropout(0.5), nn.Linear(144, 3))


def run(
    params: Training,
    *,
    model: nn.Module | None = None,
    state: dict[str, Any] | None = None,
    stop: int | None = None,
    objective: Objective | None = None,
    count: int = 48,
) -> tuple[nn.Module, list[Epoch]]:
    model = model or network()
    epochs = []
    for epoch in train(
        model, images(count), images(24, 1), params=params,
        objective=objective or cross_entropy(), seed=3, state=state,
    ):  # fmt: skip
        epochs.append(epoch)
        if len(epochs) == stop:
            break
    return model, epochs


def from_disk(state: dict[str, Any]) -> dict[str, Any]:
    """A state written and read as the stages do: tensors and plain values only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_learns() -> None:
    model, epochs = run(Training(epochs=8, batch_size=16, learning_rate=0.1))
    assert epochs[-1].row["val_top1"] > 90  # a third by chance
    loss, top1, _ = evaluate(model, images(24, 1))
    assert top1 == max(epoch.row["val_top1"] for epoch in epochs)
    assert loss < epochs[0].row["val_loss"]


def test_steps_are_nesterov_momentum_with_decay_on_matrices_alone() -> None:
    params = Training(
        epochs=2, batch_size=16, learning_rate=0.05, weight_decay=0.1, warmup_epochs=0, augment=STILL,
        channels_last=False, keep="last", precision="fp32",
    )  # fmt: skip
    trained, _ = run(params)

    reference = network().double()
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    step = 0
    for epoch in range(2):
        for batch in images().epoch(batch_size=16, augment=STILL, seed=3, epoch=epoch):
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


def test_a_warmup_of_part_of_a_step_does_not_pass_the_peak() -> None:
    params = Training(epochs=2, warmup_epochs=0.25, schedule="linear")
    factors = [learning_rate_factor(step, 10, params) for step in range(1, 21)]
    assert factors[:3] == pytest.approx([1 / 2.5, 2 / 2.5, 1])
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(factors[2:]))


def test_norms_do_not_decay_whatever_their_shape() -> None:
    """Without gradients, decay alone moves weights: LayerNorm's are three-dimensional here."""
    model = nn.Sequential(nn.LayerNorm([3, 8, 8]), nn.Flatten(), nn.Linear(192, 3))
    before = copy.deepcopy(model)
    params = Training(
        epochs=1, batch_size=16, learning_rate=0.1, momentum=0, weight_decay=0.5, warmup_epochs=0,
        keep="last",
    )  # fmt: skip
    run(params, model=model, objective=lambda batch, logits, progress: 0 * logits.sum())
    assert torch.equal(model[0].weight, before[0].weight) and torch.equal(model[2].bias, before[2].bias)
    shrunk = torch.tensor(
        [1 - 0.1 * 0.5 * learning_rate_factor(step, 3, params) for step in (1, 2, 3)]
    ).prod()
    torch.testing.assert_close(model[2].weight, shrunk * before[2].weight)


class Counting(nn.Module):
    """Holds integers that averaging would corrupt."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(7))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_average_is_its_recursion() -> None:
    """Epochs of one step each show every step's weights and running statistics."""
    model = nn.Sequential(*network(), Counting())
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    params = Training(
        epochs=14, batch_size=48, learning_rate=0.1, ema=0.55, keep="last", precision="fp32", augment=STILL
    )
    training = train(model, images(), images(24, 1), params=params, objective=cross_entropy(), seed=3)
    for step, epoch in enumerate(training, 1):
        decay = min(0.55, step / (step + 9))  # the former from step 11 on
        for name, now in epoch.state["optimization"]["model"].items():
            expected[name] = decay * expected[name] + (1 - decay) * now.double()
        last = copy.deepcopy(epoch.state["optimization"]["model"])
    for name, kept in model.state_dict().items():
        if kept.is_floating_point():
            torch.testing.assert_close(kept.double(), expected[name], rtol=1e-4, atol=1e-6, msg=name)
        else:
            assert torch.equal(kept, last[name]), name


@pytest.mark.parametrize(
    ("params", "make"),
    [
        (Training(epochs=4, batch_size=16, learning_rate=0.1), network),
        (
            Training(epochs=4, batch_size=16, learning_rate=0.1, ema=0.9, keep="last", schedule="linear"),
            network,
        ),
        (Training(epochs=4, batch_size=16, learning_rate=0.1, momentum=0, keep="last"), dropping),
    ],
    ids=["best", "average", "dropout"],
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(params: Training, make: Any) -> None:
    undisturbed, rows = run(params, model=make())
    _, before = run(params, model=make(), stop=2)
    state = from_disk(before[-1].state)
    model = make()
    torch.manual_seed(99)  # another process
    resumed, after = run(params, model=model, state=state)
    assert [epoch.row["epoch"] for epoch in after] == [3, 4]
    assert after[-1].row["val_loss"] == rows[-1].row["val_loss"]
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


class Learning(nn.Module):
    """An objective that learns: the loss is on logits times a vector, plus those of a head on the images."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Conv2d(3, 3, 8)

    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        head = self.head(batch.inputs).flatten(1)
        return F.cross_entropy(logits * self.scale, batch.labels) + F.cross_entropy(head, batch.labels)


def test_an_objectives_parameters_are_trained_by_the_same_rules_as_the_networks() -> None:
    """They might as well be in the network: there is no telling the trainings apart."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.objective = network(), Learning()

        def forward(self, x: Tensor) -> Tensor:
            logits = self.network(x)
            if not self.training:
                return logits
            return torch.cat([logits * self.objective.scale, self.objective.head(x).flatten(1)], 1)

    def both(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        return sum((F.cross_entropy(part, batch.labels) for part in logits.split(3, 1)), torch.tensor(0.0))

    params = Training(
        epochs=3, batch_size=16, learning_rate=0.1, weight_decay=0.1, keep="last", precision="fp32"
    )
    objective = Learning()
    model, rows = run(params, objective=objective)
    joint, _ = run(params, model=Both(), objective=both)
    assert not torch.equal(objective.scale, Learning().scale)
    for trained, expected in ((model, joint.network), (objective, joint.objective)):
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], tensor, msg=name)
    assert list(model.state_dict()) == list(network().state_dict()), "the network holds none of them"
    assert list(rows[-1].state["optimization"]["objective"]) == list(objective.state_dict())


def test_an_objectives_gradients_are_unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 scales the loss by 65536; the head of `Learning` computes in fp32, so that nothing may change."""
    params = Training(epochs=2, batch_size=16, learning_rate=0.1, precision="fp32")
    expected, objective = Learning(), Learning()
    run(params, objective=expected)
    monkeypatch.setattr("akgp.training.step.autocast_dtype", lambda precision, device: torch.float16)
    _, epochs = run(params, objective=objective)
    assert epochs[-1].state["optimization"]["scaler"]["scale"] == 65536
    torch.testing.assert_close(objective.head.weight, expected.head.weight)


def test_an_interrupted_objective_goes_on_too() -> None:
    params = Training(epochs=4, batch_size=16, learning_rate=0.1, ema=0.9)
    objectives = [Learning(), Learning(), Learning(seed=7)]
    undisturbed, rows = run(params, objective=objectives[0])
    _, before = run(params, objective=objectives[1], stop=2)
    resumed, after = run(params, objective=objectives[2], state=from_disk(before[-1].state))
    assert after[-1].row["loss"] == rows[-1].row["loss"]
    for one, other in ((undisturbed, resumed), (objectives[0], objectives[2])):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_progress_is_the_share_of_steps_done_after_an_interruption_too() -> None:
    params = Training(epochs=4, batch_size=16, learning_rate=0.1)

    def seen(state: dict[str, Any] | None, stop: int | None) -> tuple[list[float], list[Epoch]]:
        shares: list[float] = []

        def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
            shares.append(progress)
            return F.cross_entropy(logits, batch.labels)

        return shares, run(params, state=state, stop=stop, objective=objective)[1]

    undisturbed, _ = seen(None, None)
    assert undisturbed == [step / 12 for step in range(12)]
    before, epochs = seen(None, 2)
    after, _ = seen(from_disk(epochs[-1].state), None)
    assert before + after == undisturbed


def test_a_finished_training_resumed_gives_its_network() -> None:
    params = Training(epochs=2, batch_size=16, learning_rate=0.1)
    finished, epochs = run(params)
    resumed, after = run(params, model=network(seed=9), state=from_disk(epochs[-1].state))
    assert not after and not resumed.training
    for name, tensor in finished.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_random_numbers_depend_on_the_seed_alone_and_are_left_to_the_caller() -> None:
    params = Training(epochs=1, batch_size=16, learning_rate=0.1, warmup_epochs=0)
    losses = []
    for others in (1, 2):
        model = dropping()
        torch.manual_seed(others)
        expected = torch.rand(3)
        torch.manual_seed(others)
        losses.append(run(params, model=model)[1][0].row["loss"])
        assert torch.equal(torch.rand(3), expected)
    assert losses[0] == losses[1]


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    _, epochs = run(Training(epochs=2, batch_size=100, learning_rate=0.1, warmup_epochs=0), count=20)
    assert epochs[-1].state["optimization"]["steps"] == 2
    assert epochs[0].row["learning_rate"] == 0.1


def test_compiled_networks_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing is torch's; the eager backend spares the C++ compiler."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    params = Training(epochs=2, batch_size=16, learning_rate=0.1, precision="fp32")
    plain, rows = run(params, model=dropping())
    compiled, same = run(params.model_copy(update={"compile": True}), model=dropping())
    assert same[-1].row["val_loss"] == pytest.approx(rows[-1].row["val_loss"], rel=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert list(same[-1].state["optimization"]["model"]) == list(plain.state_dict())


@pytest.mark.slow
def test_compiled_by_inductor_trains_alike() -> None:
    params = Training(epochs=2, batch_size=16, learning_rate=0.1, precision="fp32")
    _, rows = run(params)
    _, same = run(params.model_copy(update={"compile": True}))
    assert same[-1].row["val_loss"] == pytest.approx(rows[-1].row["val_loss"], rel=1e-3)


def test_label_smoothing_mixes_the_labels_with_all_classes() -> None:
    logits, batch = torch.randn(6, 3), Batch(torch.arange(6), torch.zeros(6), torch.arange(6) % 3)
    surprise = -logits.log_softmax(1)
    expected = 0.8 * surprise[torch.arange(6), batch.labels].mean() + 0.2 * surprise.mean()
    torch.testing.assert_close(cross_entropy(0.2)(batch, logits, 0.0), expected)


def test_last_keeps_the_last_and_best_the_best() -> None:
    model, epochs = run(Training(epochs=3, batch_size=16, learning_rate=0.1, keep="last"))
    assert evaluate(model, images(24, 1))[0] == pytest.approx(epochs[-1].row["val_loss"])


def test_balanced_top1_is_the_mean_over_the_classes_that_occur() -> None:
    index = torch.tensor([0, 1, 3, 4, 6, 7, 9, 12, 15])  # no class 2
    model, few = network(), images(40).take(index)
    found = evaluate(model, few)
    answers = model(normalize(images(40).pixels[index], MEAN, STD)).argmax(1).tolist()
    right = [answer == label for answer, label in zip(answers, few.labels.tolist(), strict=True)]
    rare = [each for each, label in zip(right, few.labels.tolist(), strict=True) if label == 1]
    common = [each for each, label in zip(right, few.labels.tolist(), strict=True) if label == 0]
    assert 0 < sum(right) < 9 and (len(common), len(rare)) == (6, 3)
    assert found.top1 == pytest.approx(100 * sum(right) / 9)
    assert found.balanced_top1 == pytest.approx(50 * (sum(common) / 6 + sum(rare) / 3))


@pytest.mark.parametrize(("keep", "kept"), [("best", 0), ("balanced", -1), ("last", -1)])
def test_the_epoch_that_is_kept(keep: str, kept: int) -> None:
    """First the network learns to answer the common class, then to tell the rare ones from each other."""
    split = images(48)
    tail = split.take(torch.cat([(split.labels == 0).nonzero()[:, 0], torch.tensor([1, 2])]))

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        rare = batch.labels.clamp_min(1)
        return F.cross_entropy(logits, torch.zeros_like(rare) if progress < 0.25 else rare)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    params = Training(epochs=8, batch_size=16, learning_rate=0.05, keep=keep, augment=STILL)
    epochs = train(model, split, tail, params=params, objective=objective, seed=3)
    rows = [epoch.row for epoch in epochs]
    assert rows[0]["val_top1"] == pytest.approx(100 * 16 / 18)
    assert rows[-1]["val_balanced_top1"] == pytest.approx(200 / 3)
    found = evaluate(model, tail)
    assert (found.top1, found.balanced_top1) == (
        pytest.approx(rows[kept]["val_top1"]),
        pytest.approx(rows[kept]["val_balanced_top1"]),
    )


def test_a_diverging_loss_names_the_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"epoch \d.*lower learning_rate \(10\.0\)"):
        run(Training(epochs=20, batch_size=16, learning_rate=10.0, weight_decay=1.0, augment=STILL))


def test_weights_that_diverge_in_the_last_step_are_not_kept() -> None:
    """The loss is finite, its gradient is not: only validation shows it."""
    with pytest.raises(TrainingError, match="val_loss is nan in epoch 1"):
        run(
            Training(epochs=1, batch_size=48, warmup_epochs=0),
            objective=lambda batch, logits, progress: (0 * logits).abs().sqrt().sum(),
        )


def test_half_precision_on_a_processor_is_refused() -> None:
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", torch.device("cpu"))


def test_graphs_on_a_processor_are_refused() -> None:
    with pytest.raises(TrainingError, match="cuda_graphs needs one worker on a GPU, got 1 on cpu"):
        run(Training(epochs=2, cuda_graphs=True))


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_the_processor_multiplies_in_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) == (torch.bfloat16 if native else None)
    assert autocast_dtype("bf16", cpu) == torch.bfloat16 and autocast_dtype("fp32", cpu) is None


def test_bf16_autocast_trains() -> None:
    _, epochs = run(Training(epochs=6, batch_size=16, learning_rate=0.1, precision="bf16"))
    assert epochs[-1].row["val_top1"] > 90


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
            "loss is nan in epoch 1: lower learning_rate (0.1) or raise warmup_epochs (1.0)",
        ]
    )
