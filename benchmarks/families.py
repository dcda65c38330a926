"""Which of torchvision's classifiers are pruned, how far, and whether the result is usable: a table.

    python -m benchmarks.families [NAME …] [--size 64] [--files] [--out results/families]

A row a network, written as soon as it is measured: layers cut, share of the MACs kept at ratio .5 and at a
budget of half of the MACs, processor seconds of `prune`, whether the saved network loads with the same
outputs, and with --files whether its ONNX and int8 files can be made. `prune` itself compares every cut with
the masked network. Random weights, 10 classes; nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.evaluation.cost import count
from akgp.io.errors import message
from akgp.models import Spec, create
from akgp.params import Quantize
from akgp.pruning import prune
from akgp.quantization import export_onnx, quantize

NAMES = """
alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_1 mobilenet_v2
mobilenet_v3_small mnasnet0_5 shufflenet_v2_x1_0 regnet_x_400mf regnet_y_400mf efficientnet_b0
efficientnet_v2_s googlenet inception_v3 convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t
"""
SIZES = {"inception_v3": 96, "vit_b_16": 224, "maxvit_t": 224}
"""Images that a network must have, at least; others take --size."""
COLUMNS = [
    *("network", "pixels", "layers cut", "MACs at ratio .5", "MACs at macs .5"),
    *("seconds", "reloads", "ONNX", "int8"),
]


def tried(action: Callable[[], Any]) -> Any:
    """What an action gives, or its error in a line."""
    try:
        return action()
    except Exception as error:  # a row of the table says so
        return message(error)[:100]


def measure(name: str, size: int, files: bool) -> dict[str, Any]:
    """The row of one network."""
    torch.manual_seed(0)
    model = create(Spec(name, 10, 3)).eval()
    example = torch.zeros(1, 3, size, size)
    dense, start = count(model, example), time.process_time()
    pruned = prune(model, example, ratio=0.5)
    seconds = time.process_time() - start
    whole = sum(layer.reason is not None for layer in pruned.layers)
    row: dict[str, Any] = {
        "network": name,
        "pixels": size,
        "layers cut": f"{len(pruned.layers) - whole} of {len(pruned.layers)}",
        "MACs at ratio .5": round(count(pruned.model, example).macs / dense.macs, 3),
        "seconds": round(seconds, 1),
        "reloads": tried(lambda: reloads(pruned.model, example)),
    }
    row["MACs at macs .5"] = tried(
        lambda: round(count(prune(model, example, macs=0.5).model, example).macs / dense.macs, 3)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        if files:
            row["ONNX"] = tried(lambda: export_onnx(pruned.model, example, path)) or "yes"
        noise = torch.randn(4, *example.shape[1:])
        int8 = Path(folder) / "int8.onnx"
        row["int8"] = (
            tried(lambda: quantize(path, noise, Quantize(), int8) and "yes") if path.exists() else ""
        )
    return row


def reloads(model: nn.Module, example: Tensor) -> str:
    """Whether a network that is saved and loaded gives the same outputs to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts.save(model, folder)
        noise = torch.randn_like(example)
        with torch.no_grad():
            return "yes" if torch.equal(artifacts.load(folder)(noise), model.eval()(noise)) else "no"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    return "\n".join(
        [*lines, *(f"| {' | '.join(str(row.get(key, '')) for key in COLUMNS)} |" for row in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES.split())
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--files", action="store_true", help="make the ONNX and int8 files too")
    parser.add_argument("--out", type=Path, default=Path("results/families"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "families.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for name in options.names:
        size = max(options.size, SIZES.get(name, 0))
        try:
            row = measure(name, size, options.files)
        except ValueError as error:  # of pruning
            row = {"network": name, "pixels": size, "layers cut": message(error)[:100]}
        rows = [each for each in rows if each["network"] != name] + [row]
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
        print(table([row]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
