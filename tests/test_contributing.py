"""The examples of CONTRIBUTING.md, applied to a copy of the sources and used there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^### (?P<what>\w+).*?^```diff\n(?P<diff>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {m["what"]: m["diff"] for m in EXAMPLE.finditer((ROOT / "CONTRIBUTING.md").read_text("utf-8"))}

USES = {
    "Criterion": """
import torch
from akgp.models import cifar_resnet
from akgp.params import Prune
from akgp.pruning import prune
model = cifar_resnet(20)
criterion = Prune(criterion="linf", ratio=0.5).criterion
pruned = prune(model, torch.zeros(1, 3, 32, 32), ratio=0.5, criterion=criterion)
layer = next(each for each in pruned.layers if each.name.endswith(".conv1"))  # coupled to no other
largest = dict(model.named_modules())[layer.name].weight.abs().flatten(1).amax(1)
assert 0 < len(layer.kept) < layer.dense_width
assert set(layer.kept) == set(largest.topk(len(layer.kept)).indices.tolist())
""",
    "Strategy": """
import torch
from akgp.data.batches import Batch
from akgp.distillation import distillation_objective
from akgp.params import Distill
student, teacher, labels = torch.randn(6, 4).double(), torch.randn(6, 4).double(), torch.arange(6) % 4
params = Distill(strategy="logit_mse", alpha=2.0)
objective = distillation_objective([lambda batch: teacher], params, prior=None)
loss = objective(Batch(torch.arange(6), torch.zeros(6, 1, 2, 2), labels), student, 0.0)
by_hand = sum(
    -student[i].log_softmax(0)[labels[i]] + sum((student[i] - teacher[i]) ** 2) / 4 for i in range(6)
) / 6
assert torch.allclose(loss, by_hand)
""",
    "Stage": """
import json
from pathlib import Path
from akgp.orchestration.run import run_stage
Path("reports").mkdir(exist_ok=True)
Path("reports/metrics.json").write_text(json.dumps({"int8": {"top1": 97.5}}))
run_stage("card")
assert "97.50 %" in Path("models/card/README.md").read_text()
from scripts import dvc_deps
assert not dvc_deps.differences(Path("dvc.yaml").read_text())
""",
    "Source": """
from pathlib import Path
import numpy as np
from akgp.data import prepare, read_summary
from akgp.params import Data, Splits
images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
np.savez("set.npz", images=images, labels=np.arange(60) % 3)
Path("prepared").mkdir()
prepare(Data(source="npz", path="set.npz", splits=Splits(test=0.2)), 0, Path("prepared"))
assert sum(map(sum, read_summary(Path("prepared")).counts.values())) == 60
""",
    "Runtime": """
from pathlib import Path
import numpy as np, onnx
from akgp.runtimes import RUNTIMES
folder = Path("tests/portable")
sides = onnx.load(folder / "model.onnx").graph.input[0].type.tensor_type.shape.dim
shape = [side.dim_value for side in sides]
inputs = np.random.default_rng(0).standard_normal((2, *shape[1:])).astype(np.float32)
networks = [RUNTIMES[name].load(folder / "model.onnx", 1) for name in ("onnxruntime", "reference")]
one, other = (network.run(inputs) for network in networks)
assert one.shape == other.shape and np.abs(one - other).max() < 0.2 * np.abs(one).max()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", USES)
def test_an_example_applies_and_works(what: str, tmp_path: Path) -> None:
    for name in ("akgp", "scripts", "recipes", "tests/portable"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    patch = ["git", "apply", "-p0", "--unidiff-zero", "--whitespace=nowarn"]
    applied = subprocess.run(patch, input=EXAMPLES[what], text=True, cwd=tmp_path, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    used = subprocess.run([sys.executable, "-c", USES[what]], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr


def test_every_example_is_used() -> None:
    assert set(EXAMPLES) == set(USES)
