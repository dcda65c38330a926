"""Images a second of training, ours beside the conventional loop, and of distillation with cached views.

`make bench`, or `python -m benchmarks.speed.training`: every way trains ResNet-20 on 32×32 images in
interleaved rounds of one epoch each, on one thread, or on the GPU if there is one. On a processor the
processor's own time is counted, which a busy machine hardly changes; on a GPU the clock's. Writes
results/speed/table.json and table.md.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data import Images, IndexedSource
from akgp.distillation import distillation_loss, frozen_teacher
from akgp.distillation.cached_views import ask_about_views
from akgp.models import cifar_resnet
from akgp.params import Distill, Training
from akgp.pruning import prune
from akgp.training import Epoch, Objective, autocast_dtype, cross_entropy, train
from experiments.machine import described

RESULTS = Path("results/speed")
BATCH, STEPS, ROUNDS = 128, 6, 7
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
VIEWS = 4
SHARES = ("50%", "25%")

Round = Callable[[], object]


def images(count: int = BATCH * STEPS) -> IndexedSource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return IndexedSource.of(Images(pixels, torch.arange(count) % 10), MEAN, STD)


def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(20)


def conventional(source: IndexedSource, device: torch.device) -> Round:
    """PyTorch's own way: PIL images, torchvision's transforms, DataLoader, SGD in fp32."""
    loader = conventional_loader(source)
    return plain(lambda: ((x.to(device), y.to(device)) for x, y in loader), device)


def conventional_loader(source: IndexedSource) -> torch.utils.data.DataLoader[Any]:
    """Batches of (inputs, labels), each image by itself: cropped with a border of 4 pixels, mirrored."""
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
    ])  # fmt: skip
    assert isinstance(source.pixels, Tensor)
    pictures = [v2.functional.to_pil_image(image) for image in source.pixels]

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> Any:
            return transform(pictures[index]), int(source.labels[index])

    return torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True)


def synthetic(source: IndexedSource, device: torch.device, dtype: torch.dtype | None) -> Round:
    """The ceiling: the same steps on one batch that lies ready, channels last."""
    batch = next(iter(source.ordered(batch_size=BATCH, channels_last=True)))
    ready = batch.inputs.to(device), batch.labels.to(device)
    return plain(lambda: (ready for _ in range(STEPS)), device, dtype, torch.channels_last)


def plain(
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    device: torch.device,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Round:
    model = network().to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def one_round() -> None:
        for inputs, labels in batches():
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                logits = model(inputs).float()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits, labels).backward()
            optimizer.step()

    return one_round


def ours(
    model: nn.Module,
    source: Any,
    objective: Objective,
    device: torch.device,
    precision: str,
    *,
    compiled: bool = False,
) -> Round:
    """An epoch of `akgp.training.train`, with validation on ten images."""
    training = Training(
        epochs=1000,
        batch_size=BATCH,
        learning_rate=0.01,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        keep="last",
    )
    running: Iterator[Epoch] = train(
        model, source, images(10), params=training, objective=objective, seed=0, device=device
    )
    return lambda: next(running)


def distilled(
    source: IndexedSource, device: torch.device, precision: str, share: float, *, views: bool
) -> Round:
    """A student of a share of the MACs, taught by its dense network: asked in the step, or beforehand."""
    teacher = network()
    student = prune(
        teacher, torch.zeros(1, 3, 32, 32), macs=share, scope="inside" if share == 0.5 else "all"
    ).model
    ask = frozen_teacher(teacher.to(device), dtype=autocast_dtype(precision, device))
    shown: Any = source
    if views:
        shown, (ask,), _ = ask_about_views(
            source, [ask], Distill(teacher_views=VIEWS), classes=10, seed=0, device=device
        )

    def objective(batch: Any, logits: Tensor, progress: float) -> Tensor:
        return distillation_loss(logits, ask(batch), batch.labels, teacher_weight=0.3, temperature=2.0)

    return ours(student, shown, objective, device, precision)


def ways(device: torch.device) -> dict[str, Round]:
    source = images()
    every = {
        "conventional": conventional(source, device),
        "akgp, fp32": ours(network(), source, cross_entropy(), device, "fp32"),
        "akgp, fp32, compiled": ours(network(), source, cross_entropy(), device, "fp32", compiled=True),
        "synthetic, fp32": synthetic(source, device, None),
    }
    if device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16"):  # emulated, it says nothing
        every |= {
            "akgp, bf16": ours(network(), source, cross_entropy(), device, "bf16"),
            "synthetic, bf16": synthetic(source, device, torch.bfloat16),
        }
    for share in (0.5, 0.25):
        for views in (False, True):
            name = f"distil {share:.0%}, {'cached views' if views else 'asked in the step'}"
            every[name] = distilled(source, device, "auto", share, views=views)
    return every


def measured(device: torch.device) -> dict[str, list[float]]:
    """Images a second of every way in every round, the first one left out."""
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    rates: dict[str, list[float]] = {}
    every = ways(device)
    for number in range(ROUNDS + 1):
        for name, one_round in every.items():
            start = clock()
            one_round()
            if gpu:
                torch.cuda.synchronize()
            if number:
                rates.setdefault(name, []).append(BATCH * STEPS / (clock() - start))
    return rates


def table(machines: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a section for each machine that it was measured on."""
    lines = [
        "# Training, images a second", "",
        f"`make bench`; ResNet-20, 32×32, batches of {BATCH}, median of {ROUNDS} interleaved rounds (lowest",
        "to highest); on a processor one thread and the processor's time. Distillation is in the faster of",
        f"fp32 and bf16, as `precision: auto` has it; its {VIEWS} cached views are asked about beforehand,",
        "which is not counted. A teacher's forward pass takes about a third of its training step, so",
        "that cached views cannot give more than 1.67 for a student of half of its MACs, 2.33 for a quarter.",
    ]  # fmt: skip
    for machine, rates in machines.items():
        lines += ["", f"## {machine}", "", *section(rates)]
    return "\n".join(lines) + "\n"


def section(rates: dict[str, list[float]]) -> list[str]:
    """Markdown: every way's rate, then the ratios that count."""
    lines = ["| way | images/s | range |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {statistics.median(each):.0f} | {min(each):.0f} to {max(each):.0f} |"
        for name, each in rates.items()
    ]
    pairs = [
        *((f"akgp, {how}", "conventional") for how in ("fp32", "fp32, compiled", "bf16")),
        *((f"akgp, {precision}", f"synthetic, {precision}") for precision in ("fp32", "bf16")),
        *((f"distil {share}, cached views", f"distil {share}, asked in the step") for share in SHARES),
    ]  # fmt: skip
    lines += ["", "| ratio, in the same rounds | |", "| --- | --- |"]
    for one, other in pairs:
        if one in rates and other in rates:
            ratio = statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))
            lines.append(f"| {one} / {other} | {ratio:.2f} |")
    return lines


def main() -> None:
    """Measure this machine, and write results/speed/table.json and table.md, other machines' rows kept."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {name: [round(rate, 1) for rate in each] for name, each in measured(device).items()}
    file = RESULTS / "table.json"
    machines = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    machines[described()] = rates
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(machines, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "table.md").write_text(table(machines), encoding="utf-8")
    print("\n".join(section(rates)))


if __name__ == "__main__":
    typer.run(main)
