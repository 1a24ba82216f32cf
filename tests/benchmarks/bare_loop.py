"""The limit of a search: the steps of its trials in a bare loop, with no Ray, no record, no checkpoint, no report.

    python -m tests.benchmarks.bare_loop runs/NAME        # a finished search's trials, epochs and images

As many processes of one thread as the search had, which take trials from a common counter. Libraries are loaded,
images and labels are tensors in memory, models are built and one step has warmed each process up before time is taken.
What is left: forward, loss, backward, clipping, fused AdamW, and an epoch's forward passes over the validation split.

Batches, flips and crops come from the search's own random streams, so that the plain methods train the very same
weights and end at the same accuracy; the penalty is written here in other words than ours, and differs by rounding.
"""

import argparse
import math
import multiprocessing
import os
import queue
import statistics
import time
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.rows import wait_for_quiet
from trainables.config import METHODS, TrainConfig
from trainables.data.batches import draws, open_data, transformed
from trainables.models.adapters import adapt
from trainables.models.create import fresh_model
from trainables.models.forward import normalised
from trainables.seeds import seed_for
from trainables.training import fit
from tune_fairlora.startup import KEEP_MEMORY, environment

# What the loop below is written for: the spaces' own choices.
PLAIN = {"head": "linear", "head_lr": 0.0, "dropout": 0.0, "last_blocks": 0, "groups": "class", "reduction": "sum"}
PLAIN |= {"penalty_center": "batch", "balance": "none", "micro_batch": 0, "views": 0, "dtype": "float32"}
NICE = int(os.environ.get("RAY_worker_niceness", "15"))  # noqa: SIM112 - as Ray's workers: other work delays both alike


class Images(NamedTuple):
    """One split in memory: float ``[n, 3, size, size]`` in [0, 1], labels int64 ``[n]``."""

    pixels: Tensor
    label: Tensor


class Task(NamedTuple):
    """What a process needs to know. ``weights`` as ``backbones.load`` takes them."""

    store: str
    weights: str | None
    configs: list[TrainConfig]
    last_row: bool


class Trained(NamedTuple):
    """One trial: validation accuracy of its last epoch; seconds for batches and crops, steps, and validation."""

    accuracy: float
    read: float
    train: float
    validate: float


@dataclass(frozen=True)
class Bare:
    """``seconds`` from the common start to the last process's end; the trials; a process's mean seconds of no work."""

    seconds: float
    trials: list[Trained]
    idle: float


def last_row_in_use() -> bool:
    """Whether our training computes the last block for the class token alone."""
    return hasattr(fit, "read_last_row")


def build(config: TrainConfig, classes: list[str], weights: str | None, last_row: bool) -> nn.Module:
    """The trial's model, ready to train."""
    model = adapt(fresh_model(config, classes, weights), config)
    if last_row:
        fit.read_last_row(model)
    return model


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    exempt = model.no_weight_decay()
    decayed, others = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (decayed if p.ndim > 1 and name not in exempt else others).append(p)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def spread_of_classes(losses: Tensor, label: Tensor) -> Tensor:
    """FairLoRA's penalty, equation 1, over the classes that the batch has."""
    _, index, counts = label.unique(return_inverse=True, return_counts=True)
    means = losses.new_zeros(len(counts)).index_add(0, index, losses) / counts
    return (means - means.mean()).square().sum()


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, label: Tensor, config: TrainConfig
) -> None:
    """One optimisation step on images in [0, 1]."""
    optimizer.zero_grad(set_to_none=True)
    losses = F.cross_entropy(model(normalised(images, config)), label, reduction="none")
    loss = losses.mean()
    if METHODS[config.method].fair:
        loss = loss + config.lam * spread_of_classes(losses, label)
    loss.backward()
    if config.clip_norm:
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], config.clip_norm)
    optimizer.step()


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine."""
    warm = round(warmup * steps)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_epoch(model: nn.Module, optimizer, images: Images, config: TrainConfig, epoch: int) -> float:
    """All steps of an epoch; the seconds that its batches took."""
    model.train()
    seconds = 0.0
    order, augment = (torch.Generator().manual_seed(seed_for(config.seed, n, epoch)) for n in ("order", "augment"))
    batches = torch.randperm(len(images.label), generator=order).split(config.batch_size)
    for i, index in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate(epoch * len(batches) + i, config.epochs * len(batches), config.warmup)
        start = time.perf_counter()
        batch = transformed(images.pixels[index], draws(len(index), config, augment)), images.label[index]
        seconds += time.perf_counter() - start
        step(model, optimizer, *batch, config)
    return seconds


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, config: TrainConfig) -> float:
    model.eval()
    found = [model(normalised(part, config)).argmax(1) for part in images.pixels.split(128)]
    return (torch.cat(found) == images.label).double().mean().item()


def train(model: nn.Module, config: TrainConfig, training: Images, validation: Images, epochs: int = 0) -> Trained:
    """All epochs of one trial, or its first ``epochs``."""
    optimizer, score, read, steps, validate = optimizer_of(model, config), math.nan, 0.0, 0.0, 0.0
    for epoch in range(epochs or config.epochs):
        start = time.perf_counter()
        batches = train_epoch(model, optimizer, training, config, epoch)
        between = time.perf_counter()
        score = accuracy(model, validation, config)
        validate += time.perf_counter() - between
        read, steps = read + batches, steps + between - start - batches
    return Trained(score, read, steps, validate)


def in_memory(split) -> Images:
    """A split of ``data.open_data``."""
    return Images(split.pixels(torch.arange(len(split))).contiguous(), split.label)


def _work(task: Task, ready: Barrier, turn: Synchronized, results: multiprocessing.Queue) -> None:
    """A process: everything is made, then all start at once; ``results`` gets (trial or -1, Trained or the end)."""
    os.nice(max(0, NICE - os.nice(0)))
    torch.set_num_threads(1)
    data = open_data(task.store)
    training, validation, classes = in_memory(data.train), in_memory(data.val), data.manifest.classes
    models = [build(config, classes, task.weights, task.last_row) for config in task.configs]
    first = task.configs[0]
    few = Images(*(part[: first.batch_size] for part in training))
    train(build(first, classes, task.weights, task.last_row), first, few, few, epochs=1)
    ready.wait()
    while (i := _next(turn)) < len(models):
        results.put((i, train(models[i], task.configs[i], training, validation)))
        models[i] = None
    results.put((-1, time.monotonic()))


def _next(turn: Synchronized) -> int:
    with turn.get_lock():
        turn.value += 1
        return turn.value - 1


def run(task: Task, processes: int) -> Bare:
    """Train all trials of ``task`` in ``processes``. Raises ValueError for a configuration that the loop lacks."""
    for config in task.configs:
        if config != replace(config, **PLAIN):
            raise ValueError(f"the bare loop is written for {PLAIN}, but a trial has {config.hyperparameters()}")
    context = multiprocessing.get_context("spawn")
    ready, turn, results = context.Barrier(processes + 1), context.Value("i", 0), context.Queue()
    workers = [context.Process(target=_work, args=(task, ready, turn, results)) for _ in range(processes)]
    with environment(KEEP_MEMORY):  # as the search's processes have it
        for worker in workers:
            worker.start()
    try:
        ready.wait(timeout=600)
        start = time.monotonic()
        found = [_next_result(results, workers) for _ in range(len(task.configs) + processes)]
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
    ends = [end for i, end in found if i < 0]
    trials = [trained for i, trained in sorted((i, trained) for i, trained in found if i >= 0)]
    return Bare(max(ends) - start, trials, max(ends) - statistics.mean(ends))


def _next_result(results: multiprocessing.Queue, workers: list) -> tuple:
    while True:
        try:
            return results.get(timeout=5)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a process of the bare loop died: see its traceback above") from None


def task_of(events: list[dict], last_row: bool | None = None) -> Task:
    """The trials of a search's record, each for as many epochs as it was given; none may have been stopped."""
    settings = events[0]["settings"]
    configs = [TrainConfig(**event["values"]) for event in events if event["event"] == "start"]
    done = sum(event["event"] == "epoch" for event in events)
    if done != sum(config.epochs for config in configs):
        raise ValueError("the search must have trained each trial to its end: --scheduler none")
    use = last_row_in_use() if last_row is None else last_row
    return Task(settings["store"], settings["weights_file"] or None, configs, use)


def main() -> None:
    from tune_fairlora.record.event_log import read_events

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("search", type=Path, help="the folder of a search without a scheduler")
    p.add_argument("--processes", type=int, default=2)
    args = p.parse_args()
    wait_for_quiet()
    task = task_of(read_events(args.search))
    bare = run(task, args.processes)
    sums = [f"{sum(getattr(trial, name) for trial in bare.trials):.1f} s" for name in ("read", "train", "validate")]
    print(
        f"{len(task.configs)} trials in {bare.seconds:.1f} s; batches {sums[0]}, steps {sums[1]}, validation {sums[2]}"
    )


if __name__ == "__main__":
    main()
