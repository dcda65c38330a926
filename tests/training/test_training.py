"""The training loop against its definition, torch's own schedulers, and itself interrupted."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch
from akgp.data.normalization import normalize
from akgp.evaluation import accuracy, balanced_accuracy
from akgp.params import Augment, Training
from akgp.training import (
    Epoch,
    TrainingError,
    autocast_dtype,
    cross_entropy,
    evaluate,
    learning_rate_factor,
    train,
)
from akgp.training.step import _captured
from tests.support.trainings import MEAN, STD, Learning, dropping, from_disk, images, network, run

STILL = Augment(crop_padding=0, flip=False)


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


def test_adamw_is_its_definition() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, with matrices alone decayed."""
    params = Training(
        epochs=1, batch_size=16, learning_rate=0.01, weight_decay=0.1, warmup_epochs=0, augment=STILL,
        optimizer="adamw", momentum=0.8, channels_last=False, keep="last", precision="fp32",
    )  # fmt: skip
    trained, _ = run(params)
    reference = network().double().train()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in reference.named_parameters()}
    for step, batch in enumerate(images().epoch(batch_size=16, augment=STILL, seed=3, epoch=0), 1):
        rate = 0.01 * learning_rate_factor(step, 3, params)
        loss = F.cross_entropy(reference(batch.inputs.double()), batch.labels)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(reference.named_parameters(), gradients, strict=True):
                m, v = moments[name] = (
                    0.8 * moments[name][0] + 0.2 * g,
                    0.999 * moments[name][1] + 0.001 * g * g,
                )
                p -= rate * (0.1 * p if p.ndim > 1 else 0)
                p -= rate * (m / (1 - 0.8**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(
            trained.state_dict()[name].to(weight.dtype), weight, rtol=1e-3, atol=1e-5, msg=name
        )


def test_what_is_frozen_stays_and_is_trainable_again_afterwards() -> None:
    before = network().state_dict()
    trained, _ = run(Training(epochs=2, batch_size=16, learning_rate=0.1, freeze=("0", "1")))
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, before[name]) == (not name.startswith("4.")), name
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_what_is_frozen_is_captured_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA graphs record a network, so they replay it."""
    model, modes = network(), dict[str, bool]()
    model[1].eval()

    def recorded(whole: nn.Module, _: object) -> None:
        modes.update((name, module.training) for name, module in whole.named_modules())

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded)
    _captured(model.train(), images().pixels[:4].float(), None)
    assert all(modes.values())
    model[1].eval()
    captured = _captured(model, images().pixels[:4].float(), None)
    assert captured.training and [name for name, mode in modes.items() if not mode] == ["0.1"]


def test_cutout_that_hides_whole_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augment.cutout: 8 hides images of 8×8 pixels, must be below 8"):
        run(Training(epochs=1, augment=Augment(cutout=8)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("layer9",), "freeze: 'layer9' is not a module of the network, such as 0, 1, 2"),
        (("0", "1", "4"), "freeze: 0, 1, 4 leave no parameter of the network to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        run(Training(epochs=2, freeze=names))


def test_what_cannot_be_trained_is_said() -> None:
    with pytest.raises(TrainingError, match="nothing to train: requires_grad is False for every parameter"):
        run(Training(epochs=2), model=network().requires_grad_(False))

    class Auxiliary(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    with pytest.raises(TrainingError, match=r"logits \[B, C\] in training too, got tuple: leave out its"):
        run(Training(epochs=2), model=Auxiliary(*network()))


def test_mixed_images_have_both_labels_by_their_shares() -> None:
    batch = next(iter(images().epoch(batch_size=8, augment=Augment(mixup=1.0), seed=0, epoch=0)))
    logits = torch.randn(8, 3, dtype=torch.float64)
    assert batch.mixed is not None
    targets = torch.zeros(8, 3, dtype=torch.float64)
    for i, share in enumerate(batch.mixed.share.tolist()):
        targets[i, batch.labels[i]] += share
        targets[i, batch.mixed.labels[i]] += 1 - share
    loss = cross_entropy(0.2)(batch, logits, 0.0)
    expected = -((0.8 * targets + 0.2 / 3) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


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
        (
            Training(
                epochs=4, batch_size=16, learning_rate=0.01, optimizer="adamw", ema=0.9, label_smoothing=0.1,
                augment=Augment(resized_crop=0.5, color_jitter=0.3, policy="trivial", erasing=0.3, cutout=2,
                                mixup=0.5, cutmix=1.0, mix_share=0.8),
            ),
            dropping,
        ),
        (Training(epochs=4, batch_size=16, learning_rate=0.1, freeze=("0", "1"), keep="last"), network),
    ],
    ids=["best", "average", "dropout", "adamw and all augmentations", "frozen"],
)  # fmt: skip
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
    logits = model(normalize(images(40).pixels[index], MEAN, STD))
    answers = logits.argmax(1).tolist()
    right = [answer == label for answer, label in zip(answers, few.labels.tolist(), strict=True)]
    rare = [each for each, label in zip(right, few.labels.tolist(), strict=True) if label == 1]
    common = [each for each, label in zip(right, few.labels.tolist(), strict=True) if label == 0]
    assert 0 < sum(right) < 9 and (len(common), len(rare)) == (6, 3)
    assert found.top1 == pytest.approx(100 * sum(right) / 9)
    assert found.balanced_top1 == pytest.approx(50 * (sum(common) / 6 + sum(rare) / 3))
    at_the_end = accuracy(logits, few.labels), balanced_accuracy(logits, few.labels)
    assert at_the_end == pytest.approx((found.top1, found.balanced_top1)), "counted otherwise"


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


def test_of_equally_good_epochs_that_with_the_lowest_loss_is_kept() -> None:
    split, params = images(48), Training(epochs=6, batch_size=16, learning_rate=0.05, augment=STILL)
    few = split.take(torch.tensor([0, 1, 2]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    rows = [each.row for each in train(model, split, few, params=params, objective=cross_entropy(), seed=3)]
    losses = [row["val_loss"] for row in rows if row["val_top1"] == max(row["val_top1"] for row in rows)]
    assert min(losses) < losses[0]
    assert evaluate(model, few).loss == pytest.approx(min(losses))


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


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, None),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx2": True}, None),
    ],
)
def test_auto_is_bf16_where_the_processor_is_faster_in_it(
    has: dict[str, Any], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) == expected
    assert autocast_dtype("bf16", cpu) == torch.bfloat16 and autocast_dtype("fp32", cpu) is None


def test_bf16_autocast_trains() -> None:
    _, epochs = run(Training(epochs=6, batch_size=16, learning_rate=0.1, precision="bf16"))
    assert epochs[-1].row["val_top1"] > 90
