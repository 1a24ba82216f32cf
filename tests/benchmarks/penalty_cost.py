"""What FairLoRA's penalty costs: its value and its gradient down to the losses, against a plain LoRA step.

    python -m tests.benchmarks.penalty_cost

One thread, ViT-Tiny at 112 px (random weights: the time is the same), batch 32, rank 8, 10 and 100 groups. Each pair is
a whole step of the plain method (forward, backward, clipping, AdamW), then the penalty alone, once, on 32 losses:
interleaved, and with caches as cold as the step leaves them. Printed: milliseconds (median) and the ratio penalty /
step in percent, median, 10th and 90th percentile over the pairs. The exit status is 1 if a median is above 1 %.
"""

import argparse
import statistics
import sys
import time

import torch

from tests.benchmarks import bare_loop
from tests.benchmarks.rows import Row, spread, wait_for_quiet
from trainables.config import TrainConfig
from trainables.models.backbones import RANDOM
from trainables.training.penalty import fairness_penalty

GOAL, GROUPS, BATCH, SIZE = 1.0, (10, 100), 32, 112  # the goal in percent


def plain_step(groups: int):
    """A call that makes one LoRA step of a classifier of ``groups`` classes on noise."""
    config = TrainConfig(backbone="vit_tiny", image_size=SIZE, batch_size=BATCH, method="lora", rank=8)
    names = [str(i) for i in range(groups)]
    model = bare_loop.build(config, names, RANDOM, bare_loop.last_row_in_use()).train()
    optimizer, draw = bare_loop.optimizer_of(model, config), torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=draw)
    label = torch.randint(groups, (BATCH,), generator=draw)
    return lambda: bare_loop.step(model, optimizer, images, label, config)


def penalty_alone(groups: int):
    """A call that computes the penalty of the losses of one batch and its derivative by each."""
    draw = torch.Generator().manual_seed(1)
    index = torch.randint(groups, (BATCH,), generator=draw)
    losses = torch.rand(BATCH, generator=draw).requires_grad_()

    def work() -> None:
        losses.grad = None
        fairness_penalty(losses, index, groups).backward()

    return work


def milliseconds(work) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def measure(groups: int, pairs: int = 40) -> tuple[list[float], list[float]]:
    """Milliseconds of each pair: the plain step, the penalty. Sets torch to one thread."""
    torch.set_num_threads(1)
    step, penalty = plain_step(groups), penalty_alone(groups)
    for _ in range(3):
        step(), penalty()
    times = [(milliseconds(step), milliseconds(penalty)) for _ in range(pairs)]
    return [a for a, _ in times], [b for _, b in times]


def row(groups: int, steps: list[float], penalties: list[float]) -> Row:
    shares = [100 * penalty / step for step, penalty in zip(steps, penalties)]
    middle = statistics.median(shares)
    ours = f"penalty {statistics.median(penalties):.2f} ms"
    step = f"LoRA step {statistics.median(steps):.0f} ms"
    measure = f"penalty alone, {groups} groups"
    return Row(measure, f"≤ {GOAL:g} %", ours, step, f"{middle:.2f} %", spread(shares), middle <= GOAL)


def rows(pairs: int = 40) -> list[Row]:
    return [row(groups, *measure(groups, pairs)) for groups in GROUPS]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=40)
    args = p.parse_args()
    wait_for_quiet()
    made = rows(args.pairs)
    for each in made:
        print(f"{each.measure}: {each.ours}, {each.peer}: {each.ratio} ({each.spread}), goal {each.goal}")
    return 0 if all(each.ok for each in made) else 1


if __name__ == "__main__":
    sys.exit(main())
