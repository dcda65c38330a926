"""Which of torchvision's and timm's classifiers are pruned, how far, and whether the result is usable.

    python -m benchmarks.families [--timm] [NAME …]

A row a network, written as soon as it is measured; started again, the missing ones are done. Random
weights, 10 classes; nothing is trained. The page docs/reference/families.md shows the tables. --timm needs
`pip install timm`, which AKGP does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.evaluation.cost import count
from akgp.io.errors import message
from akgp.models import Spec, create
from akgp.params import Quantize
from akgp.pruning import Pruned, prune
from akgp.quantization import export_onnx, quantize
from experiments.resumable import Row, complete, markdown

NAMES = """
alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_1 mobilenet_v2
mobilenet_v3_small mnasnet0_5 shufflenet_v2_x1_0 regnet_x_400mf regnet_y_400mf efficientnet_b0
efficientnet_v2_s googlenet inception_v3 convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t
"""
TIMM = """
resnet10t resnetv2_50 resnest14d res2net50_26w_4s skresnet18 ecaresnet26t seresnext26d_32x4d gcresnext26ts
cspresnet50 darknet17 dla34 hrnet_w18_small vovnet39a dpn48b selecsls42 regnetz_b16 repvgg_a0 mobileone_s0
mobilenetv1_100 mobilenetv4_conv_small ghostnet_050 mixnet_s tinynet_e lcnet_050 rexnet_100 hardcorenas_a
efficientnetv2_rw_t tf_efficientnet_lite0 fbnetc_100 nf_resnet26 convnext_atto convnextv2_atto
inception_next_atto poolformer_s12 fastvit_t8 edgenext_xx_small mobilevit_xxs efficientformerv2_s0 repvit_m0_9
starnet_s1
"""
"""One of each family that takes images of any size."""
PIXELS = {"inception_v3": 96, "vit_b_16": 224, "maxvit_t": 224, "efficientformerv2_s0": 224}
"""Images that a network must have, at least; others take 64."""
COLUMNS = """
network | pixels | layers cut | MACs at ratio .5 | MACs at macs .5 | prune, s | exact | reloads | ONNX | int8
"""
HEADER = """# Which of {library}'s classifiers are pruned

`python -m benchmarks.families{option}`; docs/reference/families.md says what the columns are. {machines}.

"""


@dataclass(frozen=True)
class Network:
    """What is measured."""

    network: str
    pixels: int


@dataclass(frozen=True)
class Library:
    """Where networks come from.

    architectures: how the pipeline calls them, with their name in braces.
    """

    name: str
    option: str
    architectures: str
    names: tuple[str, ...]
    results: Path


TORCHVISION = Library("torchvision", "", "{}", tuple(NAMES.split()), Path("results/families"))
TIMMS = Library("timm", " --timm", "timm.models:{}", tuple(TIMM.split()), Path("results/families/timm"))


def plan(names: Iterable[str]) -> Iterator[Network]:
    yield from (Network(name, PIXELS.get(name, 64)) for name in names)


def tried(action: Callable[[], Any]) -> Any:
    """What an action gives, or its error in a line."""
    try:
        return action()
    except Exception as error:  # a row of the table says so
        return message(error)[:100]


def measured(run: Network, library: Library) -> Row:
    """The row of one network."""
    torch.manual_seed(0)
    model = create(Spec(library.architectures.format(run.network), 10, 3)).eval()
    example = torch.zeros(1, 3, run.pixels, run.pixels)
    start = time.process_time()
    pruned = tried(lambda: prune(model, example, ratio=0.5))
    if not isinstance(pruned, Pruned):
        return {"layers cut": pruned}
    seconds, dense = time.process_time() - start, count(model, example).macs

    def share(smaller: Pruned) -> float:
        return round(count(smaller.model, example).macs / dense, 3)

    whole = sum(layer.reason is not None for layer in pruned.layers)
    return {
        "layers cut": f"{len(pruned.layers) - whole} of {len(pruned.layers)}",
        "MACs at ratio .5": share(pruned),
        "MACs at macs .5": tried(lambda: share(prune(model, example, macs=0.5))),
        "prune, s": round(seconds, 1),
        "exact": f"{pruned.deviation:.0e}",
        "reloads": tried(lambda: reloads(pruned.model, example)),
        **files(pruned.model, example),
    }


def reloads(model: nn.Module, example: Tensor) -> str:
    """Whether a network that is saved and loaded gives the same outputs to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts.save(model, folder)
        noise = torch.randn_like(example)
        with torch.no_grad():
            return "yes" if torch.equal(artifacts.load(folder)(noise), model.eval()(noise)) else "no"


def files(model: nn.Module, example: Tensor) -> Row:
    """Whether the ONNX and the int8 file can be made."""
    noise = torch.randn(4, *example.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path, int8 = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        row = {"ONNX": tried(lambda: export_onnx(model, example, path)) or "yes"}
        if path.exists():
            row["int8"] = tried(lambda: quantize(path, noise, Quantize(), int8) and "yes")
        return row


def table(rows: list[Row], library: Library) -> str:
    """The rows as Markdown, in the order of the library's names."""
    keys = [key.strip() for key in COLUMNS.split("|")]
    order = library.names
    rows = sorted(
        rows, key=lambda row: order.index(row["network"]) if row["network"] in order else len(order)
    )
    lines = [f"| {' | '.join(keys)} |", "|" + " --- |" * len(keys)]
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in keys)} |" for row in rows]
    return markdown(HEADER, rows, plan(order), lines, library=library.name, option=library.option)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--timm", action="store_const", const=TIMMS, default=TORCHVISION, dest="library")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    names = given.names or given.library.names
    complete(
        given.library.results, plan(names), partial(measured, library=given.library),
        partial(table, library=given.library),
    )  # fmt: skip


if __name__ == "__main__":
    main()
