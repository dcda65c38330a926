"""Import every module of the installed library and use it once, where no orchestrator is installed."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import torch

import akgp

ORCHESTRATED = ("akgp.orchestration", "akgp.sweep")  # these alone need ray

for absent in ("ray", "dvc", "prefect"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is installed here: nothing would be shown"
assert "site-packages" in akgp.__file__, akgp.__file__

names = [
    module.name
    for module in pkgutil.walk_packages(akgp.__path__, "akgp.")
    if not module.name.startswith(ORCHESTRATED)
]
for name in names:
    importlib.import_module(name)

from akgp.evaluation import count  # noqa: E402
from akgp.models import cifar_resnet  # noqa: E402
from akgp.pruning import prune  # noqa: E402

example = torch.zeros(1, 3, 32, 32)
network = cifar_resnet(20)
pruned = prune(network, example, ratio=0.5).model
before, after = count(network, example), count(pruned, example)
assert after.macs < 0.6 * before.macs, (before, after)
print(f"{len(names)} modules imported; ResNet-20 pruned: {before.macs:,} to {after.macs:,} MACs")
