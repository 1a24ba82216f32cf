"""What `dtype=bfloat16` gains on this processor: LoRA steps with it against float32.

    python -m tests.benchmarks.half_precision

One thread, rank 8, random weights (the time is the same): ViT-Tiny at 112 px, batch 32, and ViT-B/16 at 224 px, batch
8. Two copies of a model make a step in turn, each through our own objective and forward pass. Printed: milliseconds
(median) and the ratio bfloat16 / float32, median, least and largest (10th and 90th percentile from ten pairs on). A
processor without bfloat16 emulates it: nothing is measured there.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from tests.benchmarks import bare_loop
from tests.benchmarks.rows import Row, skipped, spread, wait_for_quiet
from trainables.config import TrainConfig
from trainables.models.backbones import RANDOM
from trainables.models.forward import forward
from trainables.training.fit import TrainStep
from trainables.training.penalty import TrainingLoss

CASES = {"vit_tiny": (112, 32, 20), "vit_b16": (224, 8, 4)}  # image size, batch size, pairs
CLASSES = [str(i) for i in range(10)]


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def stepper(config: TrainConfig):
    """A call that makes one step of ``config`` on noise."""
    model = bare_loop.build(config, CLASSES, RANDOM, bare_loop.last_row_in_use()).train()
    loss = TrainingLoss(config, len(CLASSES), 1, "cpu")
    step = TrainStep(model, config, loss, lambda inputs: forward(model, inputs, config))
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(config.batch_size, 3, config.image_size, config.image_size, generator=draw)
    label = torch.randint(len(CLASSES), (config.batch_size,), generator=draw)

    def work() -> float:
        start = time.perf_counter()
        step(images, label, label)
        return 1000 * (time.perf_counter() - start)

    return work


def measure(backbone: str, pairs: int = 0) -> tuple[list[float], list[float]]:
    """Milliseconds of each pair of steps: float32, bfloat16. Sets torch to one thread."""
    torch.set_num_threads(1)
    size, batch, usual = CASES[backbone]
    config = TrainConfig(backbone=backbone, image_size=size, batch_size=batch, method="lora", rank=8)
    full, half = stepper(config), stepper(dataclasses.replace(config, dtype="bfloat16"))
    full(), half()
    times = [(full(), half()) for _ in range(pairs or usual)]
    return [a for a, _ in times], [b for _, b in times]


def row(backbone: str, full: list[float], half: list[float]) -> Row:
    ratios, (size, batch, _) = [b / a for a, b in zip(full, half)], CASES[backbone]
    ours, theirs = f"bfloat16 {statistics.median(half):.0f} ms", f"float32 {statistics.median(full):.0f} ms"
    measure = f"LoRA step, {backbone} at {size} px, batch {batch}"
    return Row(measure, "–", ours, theirs, f"{statistics.median(ratios):.2f}", spread(ratios))


def rows(pairs: int = 0) -> list[Row]:
    if not has_bfloat16():
        return [skipped("LoRA step in bfloat16", "this processor has none")]
    return [row(backbone, *measure(backbone, pairs)) for backbone in CASES]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=0, help="default: 20 of ViT-Tiny, 4 of ViT-B/16")
    args = p.parse_args()
    wait_for_quiet()
    for each in rows(args.pairs):
        print(f"{each.measure}: {each.ours}, {each.peer}: {each.ratio} ({each.spread})")


if __name__ == "__main__":
    main()
