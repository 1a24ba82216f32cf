"""Trials side by side on one GPU: images a second of 1, 2, 4 and 8 processes that share it, as fractions make them.

    python -m tests.benchmarks.gpu_sharing
    python -m tests.benchmarks.gpu_sharing --backbone vit_b16 --method fft --batch 128

Eight processes prepare one training run each, whose memory is limited to an eighth of the card; then the first 1, 2, 4
and 8 of them train at the same time for some seconds, in full: images from the memory-mapped store, our own steps. They
share the card as Ray's fractions let trials share it, in turns. The start takes 45 s.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from tests.benchmarks.gpu_steps import SIZE, noise
from trainables.config import TrainConfig
from trainables.data import store
from trainables.data.batches import Data, open_split
from trainables.training import gpu

AT_ONCE, SECONDS = (1, 2, 4, 8), 3.0


def train(number: int, config: TrainConfig, path: Path, gates: list[Barrier], results: multiprocessing.Queue) -> None:
    """A process: prepared to the first epoch's end; then, while fewer than so many are wanted, it waits."""
    from trainables.training.fit import Trainer

    torch.set_num_threads(1)
    gpu.claim(1 / max(AT_ONCE))
    made = store.Store(path)
    data = Data(made.manifest, open_split(made, "train"), open_split(made, "val"))
    trainer = Trainer(config, data, "random", "cuda", None)
    trainer.train_epoch()
    torch.cuda.synchronize()
    results.put((number, 0, torch.cuda.max_memory_reserved()))
    for wanted, gate in zip(AT_ONCE, gates):
        gate.wait()
        images, end = 0, time.perf_counter() + SECONDS
        while number < wanted and time.perf_counter() < end:
            trainer.train_epoch()
            images += len(data.train)
        spent = time.perf_counter() - end + SECONDS
        results.put((number, wanted, images / spent if number < wanted else 0.0))


def shared(config: TrainConfig, path: Path) -> dict[int, list[float]]:
    """Images a second of each of 1, 2, 4 and 8 processes at once; under 0 the bytes that each had reserved."""
    context, n = multiprocessing.get_context("spawn"), max(AT_ONCE)
    gates, results = [context.Barrier(n + 1) for _ in AT_ONCE], context.Queue()
    workers = [context.Process(target=train, args=(i, config, path, gates, results)) for i in range(n)]
    for worker in workers:
        worker.start()
    found: dict[int, list[float]] = {}
    try:
        for wanted, gate in zip((0, *AT_ONCE), (None, *gates)):
            if gate is not None:
                gate.wait(timeout=120)
            found[wanted] = [results.get(timeout=120)[2] for _ in range(n)]
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--backbone", default="clip_b32")
    p.add_argument("--method", default="lora")
    p.add_argument("--batch", type=int, default=32)
    args = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = TrainConfig(
        data="folder", backbone=args.backbone, image_size=SIZE, method=args.method, batch_size=args.batch,
        dtype="bfloat16", epochs=10_000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        noise(Path(folder))
        found = shared(config, Path(folder) / "noise.arrow")
        reserved = statistics.median(found.pop(0))
        print(f"{args.backbone} {args.method} batch {args.batch}: {reserved / 2**30:.2f} GiB of tensors a process")
        alone = sum(found[1])
        for n, rates in found.items():
            busy = [rate for rate in rates if rate]
            each = f"{min(busy):.0f}–{max(busy):.0f} each"
            print(f"{n} at once: {sum(busy):.0f} images/s together ({sum(busy) / alone:.2f}x), {each}")


if __name__ == "__main__":
    main()
