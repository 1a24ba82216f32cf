"""Seconds and memory of one training step at the papers' full size, with random weights: no download, no accuracy.

    OMP_NUM_THREADS=1 python tests/benchmarks/full_size.py
    OMP_NUM_THREADS=1 python tests/benchmarks/full_size.py --batch 4 --only swinv2_l

Each case runs in a process of its own, as a peak of memory is the process's. ``loading`` is the libraries, the
backbone, its adapters and the proof that they are heard; ``step`` is one step of the trainer on the CPU: images,
forward, backward, optimiser. A checkpoint and an evaluation come on top in a real trial.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("lora", "fairlora", "fft", "fairfft")
CASES = [(name, method) for name in ("vit_b16", "clip_b32") for method in METHODS] + [("swinv2_l", "lora")]
CLASSES, GROUPS = 40, 6  # GeoDE's


def measure(name: str, method: str, batch: int) -> dict[str, float]:
    """One step of ``method`` on ``batch`` random images, in this process."""
    start = time.perf_counter()
    from trainables.config import TrainConfig
    from trainables.data.batches import open_data
    from trainables.models.create import BACKBONES
    from trainables.training.fit import Trainer

    size = BACKBONES[name].image_size
    config = TrainConfig(backbone=name, image_size=size, method=method, batch_size=batch, lr=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(_store(Path(folder) / "noise.arrow", size, batch))
        trainer = Trainer(config, data, "random", "cpu", None)
        loaded = time.perf_counter()
        trainer.train_epoch()  # as many images as the batch holds: one step
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"loading": loaded - start, "step": time.perf_counter() - loaded, "peak": kilobytes / 2**20}


def _store(path: Path, size: int, batch: int) -> Path:
    import numpy as np

    from trainables.data.store import Manifest, write

    rng = np.random.default_rng(0)
    manifest = Manifest("noise", size, [f"class {i}" for i in range(CLASSES)], [f"group {i}" for i in range(GROUPS)])
    images = rng.integers(0, 256, (batch + 1, size, size, 3), dtype=np.uint8)
    write(path, manifest, [(image, i % 4, i % GROUPS, "train" if i else "val") for i, image in enumerate(images)])
    return path


def main() -> None:
    """Print the table, a line as soon as its case is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", metavar="BACKBONE", help="leave the others out")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case, args.batch)))
        return
    print("| backbone | method | batch | loading, s | step, s | peak, GiB |\n|---|---|---|---|---|---|", flush=True)
    for name, method in CASES:
        if args.only in (None, name):
            command = [sys.executable, __file__, "--batch", str(args.batch), "--case", name, method]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            cells = ("failed", "", "")
            if done.returncode == 0:
                cells = [f"{value:.1f}" for value in json.loads(done.stdout.splitlines()[-1]).values()]
            print(f"| {name} | {method} | {args.batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
