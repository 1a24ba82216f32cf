"""What keeping the frozen blocks' outputs saves: steps a second with and without it, trial against trial.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.prefix --data ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors

Trials of one LoRA space (ViT-Tiny at 112 px, `last_blocks` = 2 of 12, no augmentation) that differ in rank, learning
rate and seed, 4 of 5 epochs each, on a slice of the training split (--images) and of the validation split (a third of
it), one thread. A keeps, in a cache folder that is new for every round, so that its first trial fills it; B computes
anew. A and B take turns trial by trial, and change places from trial to trial. A trial's time is all of `fit`: the
model, the filling, the epochs with their validation passes. The goal is 2.5 times the steps a second, and equal results
within the tolerance of float16's rounding: the largest differences of validation accuracy and loss in any epoch are
printed.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tests.benchmarks.rows import Row, spread
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.batches import Data, Split
from trainables.prepare import datasets
from trainables.training.fit import fit
from tune_fairlora.startup import environment

GOAL = 2.5
BASE = TrainConfig(data="folder", backbone="vit_tiny", image_size=112, last_blocks=2, flip=False, crop=1.0)
VARIED = [{"rank": 8, "lr": 3e-3}, {"rank": 4, "lr": 1e-3}, {"rank": 16, "lr": 3e-3}, {"rank": 8, "lr": 6e-3}]


@dataclass(frozen=True)
class Measured:
    """``steps`` of every trial together; of each trial in order, kept and anew, (seconds, processor seconds); the
    largest differences of an epoch's validation accuracy and loss; the size of the kept files."""

    steps: int
    kept: list[tuple[float, float]]
    anew: list[tuple[float, float]]
    accuracy: float
    loss: float
    megabytes: float

    def rate(self, trials: list[tuple[float, float]]) -> float:
        """Steps a second."""
        return self.steps / sum(wall for wall, _ in trials)

    @property
    def ratio(self) -> float:
        """Steps a second, kept over anew."""
        return self.rate(self.kept) / self.rate(self.anew)

    @property
    def processor_ratio(self) -> float:
        """The same in processor time, which other work on the machine moves less."""
        return sum(own for _, own in self.anew) / sum(own for _, own in self.kept)


def measure(
    seen: Data, weights: str, base: TrainConfig = BASE, epochs: int = 5, trials: int = 4, seed: int = 0
) -> Measured:
    """One round: ``trials`` of ``base`` over ``seen``, each with and without the kept tokens, by turns."""
    seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    accuracy = loss = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(trials):
            config = replace(base, **VARIED[i % len(VARIED)], epochs=epochs, seed=seed + i)
            curves = {}
            for keeps in (True, False) if i % 2 == 0 else (False, True):
                took, curves[keeps] = _trial(replace(config, cache_prefix=keeps), seen, weights, folder)
                seconds[keeps].append(took)
            pairs = list(zip(curves[True], curves[False]))
            accuracy = max(accuracy, *(abs(a["val_accuracy"] - b["val_accuracy"]) for a, b in pairs))
            loss = max(loss, *(abs(a["val_loss"] - b["val_loss"]) for a, b in pairs))
        size = sum(file.stat().st_size for file in Path(folder).glob("prefix-*.npy")) / 1e6
    steps = trials * epochs * -(-len(seen.train) // base.batch_size)
    return Measured(steps, seconds[True], seconds[False], accuracy, loss, size)


def _trial(config: TrainConfig, seen: Data, weights: str, folder: str) -> tuple[tuple[float, float], list[dict]]:
    """(Seconds, processor seconds), and each epoch's metrics."""
    with environment({"TUNE_FAIRLORA_CACHE": folder}):
        wall, own = time.perf_counter(), time.process_time()
        curve = [epoch.metrics for epoch in fit(config, seen, weights)]
        return (time.perf_counter() - wall, time.process_time() - own), curve


def slice_of(seen: Data, images: int) -> Data:
    """``images`` of the training split and a third as many of the validation split, evenly spread; 0 takes all."""
    return replace(seen, train=_few(seen.train, images), val=_few(seen.val, images // 3)) if images else seen


def _few(split: Split, n: int) -> Split:
    chosen = torch.linspace(0, len(split) - 1, min(n, len(split))).long()
    return Split(split.store, split.rows[chosen.numpy()], split.label[chosen], split.group[chosen])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="folder with metadata.csv")
    p.add_argument("--weights", required=True, help="ViT-Tiny's")
    p.add_argument("--images", type=int, default=400, help="of the training split; 0 takes all")
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--trials", type=int, default=4)
    p.add_argument("--rounds", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(1)
    seen = slice_of(batches.open_data(datasets.prepare("folder", args.data, BASE.image_size)), args.images)
    _trial(
        replace(BASE, epochs=1), slice_of(seen, 32), args.weights, tempfile.mkdtemp()
    )  # libraries and weights loaded
    for i in range(args.rounds):
        report(measure(seen, args.weights, epochs=args.epochs, trials=args.trials, seed=args.trials * i), seen)


def report(done: Measured, seen: Data) -> None:
    print(f"{len(seen.train)} + {len(seen.val)} images, {len(done.kept)} trials, {done.steps} steps")
    for name, seconds in (("kept", done.kept), ("anew", done.anew)):
        single = ", ".join(f"{done.steps / len(seconds) / wall:.1f}" for wall, _ in seconds)
        print(f"{name} {done.rate(seconds):6.1f} steps/s (trial by trial {single})")
    print(f"ratio {done.ratio:.2f} (goal {GOAL}), of processor time {done.processor_ratio:.2f}")
    print(f"kept on disk {done.megabytes:.0f} MB")
    print(f"largest difference of an epoch: accuracy {done.accuracy:.4f}, loss {done.loss:.5f}", flush=True)


def row(done: Measured) -> Row:
    """A round as a line of `bench.py`'s table; the spread is that of the trials."""
    measure = f"frozen blocks kept, last_blocks=2, {len(done.kept)} trials"
    single = [anew / kept for (kept, _), (anew, _) in zip(done.kept, done.anew)]
    rates = f"{done.rate(done.kept):.1f} steps/s", f"without {done.rate(done.anew):.1f} steps/s"
    words = f"{done.ratio:.2f}x", f"trials {spread(single)}"
    return Row(measure, f"≥ {GOAL:g}x", *rates, *words, done.ratio >= GOAL)


if __name__ == "__main__":
    main()
