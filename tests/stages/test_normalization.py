"""Each network gets its images in its own normalisation, from the teacher's stage to the int8 file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp import artifacts, params
from akgp.data import Images, read_split
from akgp.data.batches import Batch
from akgp.data.normalization import normalize
from akgp.models import build, cifar_resnet
from akgp.models.renormalized import Renormalized
from akgp.orchestration.run import run_stage
from akgp.stages import quantize, teacher
from akgp.stages.inputs import load_ensemble, load_teachers, read_distillation_data
from akgp.stages.normalization import summary_for
from akgp.workspace import Task

OWN = {"mean": [0.5], "std": [0.25]}


def tree(**changes: Any) -> dict[str, Any]:
    resnet = {"architecture": "cifar_resnet20", "widths": [8, 8, 8]}
    return {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"own": {**resnet, **OWN}, "plain": resnet},
        "teachers": ["own", "plain"],
        "student": "plain",
        "ray": {"cpus_per_worker": 1},
    } | changes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the digits, prepared, and two untrained dense networks."""
    root = tmp_path_factory.mktemp("normalised")
    checked = params.validate(tree())
    (root / "params.yaml").write_text(params.dump(checked))
    run_stage("data", root=root)
    for seed, name in enumerate(("own", "plain")):
        torch.manual_seed(seed)
        network = build(checked.networks[name], num_classes=10, in_channels=1)
        artifacts.save(network, root / "models" / "dense" / name)
        artifacts.save(network, root / "models" / "student" / name)
        torch.save(network.state_dict(), root / f"{name}.pt")
    return root


def task(root: Path, stage: str = "distill", network: str | None = None, **changes: Any) -> Task:
    return Task(stage, params.validate(tree(**changes)), root, network)


def test_weights_of_torchvision_bring_their_own(root: Path) -> None:
    own = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    trained = {"architecture": "mobilenet_v3_small", "weights": "DEFAULT"}
    networks = {"trained": trained, "given": trained | own, "untrained": {**trained, "weights": None}}
    color = {"color": "rgb", "splits": {"test": 0.25}}
    of = {
        name: summary_for(task(root, data=color, networks=networks, teachers=[name], student=name))
        for name in networks
    }
    assert (of["trained"].mean, of["trained"].std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert of["given"].mean == (0.1, 0.2, 0.3)
    assert of["untrained"] == summary_for(task(root))


def logits(root: Path, name: str, images: Images, mean: Any, std: Any) -> Tensor:
    with torch.no_grad():
        return artifacts.load(root / "models" / "dense" / name)(normalize(images.pixels, mean, std))


def test_inputs_are_brought_from_one_normalisation_to_the_other() -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    given, own = ((0.1, 0.5, 0.9), (0.3, 0.2, 0.1)), ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    found = Renormalized(nn.Identity(), given, own)(normalize(pixels, *given))
    torch.testing.assert_close(found, normalize(pixels, *own), rtol=1e-5, atol=1e-5)


def test_teachers_answer_in_their_own_normalisation_whatever_the_student_gets(root: Path) -> None:
    here = task(root)
    summary, train = summary_for(here), read_split(root / "data" / "prepared", "train")
    data = (summary.mean, summary.std)
    assert data != (tuple(OWN["mean"]), tuple(OWN["std"]))
    read = read_distillation_data(here)
    expected = [logits(root, "own", train, **OWN), logits(root, "plain", train, *data)]
    wrapped, plain = load_teachers(here, train.labels)
    assert isinstance(wrapped.networks[0], Renormalized) and not isinstance(plain.networks[0], Renormalized)
    for found, right in zip((wrapped, plain), expected, strict=True):
        torch.testing.assert_close(found.out_of_fold_logits(read.images, "cpu"), right, rtol=1e-3, atol=1e-4)
    batch = Batch(torch.arange(8), normalize(train.pixels[:8], *data), train.labels[:8])
    answer = wrapped.frozen(torch.device("cpu"), None, channels_last=True)(batch)
    torch.testing.assert_close(answer, expected[0][:8], rtol=1e-3, atol=1e-4)
    mean = torch.stack([each.softmax(1) for each in expected]).mean(0)
    found = load_ensemble(here)(normalize(train.pixels, *data)).softmax(1)
    torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_is_judged_in_its_own_normalisation(root: Path, tmp_path: Path) -> None:
    networks = {name: {**network, "checkpoint": f"{name}.pt"} for name, network in tree()["networks"].items()}
    prune = {"ratio": 0.5, "round_to": 4}
    for name in networks:
        for _ in teacher.compute(task(root, "teacher", name, networks=networks, prune=prune), tmp_path, None):
            pass
        validation = read_split(root / "data" / "prepared", "validation")
        summary = summary_for(task(root), name)
        right = logits(root, name, validation, summary.mean, summary.std)
        loss = nn.functional.cross_entropy(right, validation.labels)
        (row,) = json.loads((tmp_path / "history.json").read_text())
        assert row["val_loss"] == pytest.approx(float(loss), rel=1e-4)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert {key: metrics.get(key) for key in OWN} == (
            OWN if name == "own" else {"mean": None, "std": None}
        )


def test_the_int8_file_carries_the_students(root: Path, tmp_path: Path) -> None:
    here = task(root, "quantize", student="own", quantize={"images": 16})
    artifacts.save(cifar_resnet(8, (8, 8, 8), 10, 1), here.workspace.student)
    for _ in quantize.compute(here, tmp_path, None):
        pass
    written = json.loads((tmp_path / "preprocessing.json").read_text())
    assert {key: written[key] for key in OWN} == OWN


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"mean": [0.5]}, "networks.own: mean and std must both be given, or neither"),
        ({"mean": [0.5] * 3, "std": [0.2] * 3}, "networks.own.mean: must be 1 number.* 'gray', got"),
        ({"mean": [0.5], "std": [0.0]}, "networks.own.std.0: got 0.0, must be greater than 0"),
    ],
)
def test_what_is_no_normalisation_is_refused(network: dict[str, Any], message: str) -> None:
    networks = tree()["networks"] | {"own": {"architecture": "cifar_resnet20", **network}}
    with pytest.raises(params.ParamsError, match=message):
        params.validate(tree(networks=networks))
