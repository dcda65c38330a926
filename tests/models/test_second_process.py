"""Pruned networks that another process loads, which has nothing but their files: the same to the bit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from akgp import artifacts
from akgp.models import Spec, create
from akgp.pruning import prune
from tests.support.hard_constructions import NETWORKS

ROOT = Path(__file__).parents[2]
HARD = ("channel shuffle", "grouped", "reshaped heads", "transformer", "weight_norm", "hard flatten")
ARCHITECTURES = {
    **{name: f"tests.support.hard_constructions:network_{list(NETWORKS).index(name)}" for name in HARD},
    "lazy": "tests.models.test_second_process:lazy",
    "cifar_resnet8": "cifar_resnet8",
}


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(16, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


def digest(model: nn.Module) -> str:
    """SHA-256 of what a network gives for noise by a fixed seed."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        outputs = pytree.tree_leaves(model.eval()(x))
    return hashlib.sha256(b"".join(each.numpy().tobytes() for each in outputs)).hexdigest()


@pytest.mark.slow
def test_another_process_loads_them_without_pickle(tmp_path: Path) -> None:
    expected = {}
    for name, architecture in ARCHITECTURES.items():
        torch.manual_seed(0)
        model = create(Spec(architecture, 5, 3)).eval()
        example = torch.zeros(1, 3, 16, 16)
        model(example)  # lazy layers get their sizes
        pruned = prune(model, example, ratio=0.5)
        artifacts.save(pruned.model, tmp_path / name)
        expected[name] = digest(pruned.model)
    code = """if True:
        import pickle, sys
        from pathlib import Path
        from akgp import artifacts
        from tests.models.test_second_process import digest
        def refuse(*args, **options): raise AssertionError("unpickled")
        pickle.load = pickle.loads = pickle.Unpickler = refuse
        for folder in Path(sys.argv[1]).iterdir():
            print(digest(artifacts.load(folder)), folder.name)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert {name: sha for sha, name in (line.split(" ", 1) for line in done.stdout.splitlines())} == expected
