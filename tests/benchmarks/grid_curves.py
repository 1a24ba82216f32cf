"""Trains a finite grid of configurations once, with full curves, for the replayer: tests/benchmarks/data/*.parquet.

    python tests/benchmarks/grid_curves.py --data digits
    python tests/benchmarks/grid_curves.py --data digits_seeds       # few configurations, many seeds, with logits
    python tests/benchmarks/grid_curves.py --data signdigits --source ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors

Trains with the core's `fit` (no Ray), one thread a process, seed after seed, so that a table that is not yet complete
holds whole seeds. A configuration's curve is kept as soon as it is there: the command goes on where it was broken off.
A run that diverged keeps the epochs before it. A row of the table is an epoch of a run: its hyperparameters (null where
the method lacks them), seed, epoch, seconds, and every validation metric.

digits: 138 configurations x 8 epochs x 3 seeds; signdigits: 24 x 6 x 2, photographs at 64 px (a third of the time of
112 px). What is not in the grid keeps TrainConfig's default, or that of BASES.

digits_seeds (44 x 8 x 12) and signdigits_seeds (12 x 6 x 5) are for what a front is worth (`front_truth.py`). Beside
the table stands `<data>_logits.npz`: the last epoch's logits of each run that has one, int8 ``[runs, images, classes]``
in the table's order of runs, for `validation` and `test` in the store's order. A logit is the steps of 1/8 that it lies
under the image's largest, at most 127: the prediction is exact (in the digits' file, whose
runs were kept in plain float16, but for 44 of 536,448 ties), a loss within 1/16 or so. `validation_label`,
`validation_group` and those of test are int ``[images]``.
"""

import argparse
import itertools
import json
import multiprocessing
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "data"
SEEDS = {"digits": range(3), "signdigits": range(2), "digits_seeds": range(12), "signdigits_seeds": range(5)}
WITH_LOGITS = ("digits_seeds", "signdigits_seeds")
STEPS = 8  # of a logit, in one
LAMBDAS = (0.01, 0.1, 1.0, 10.0)
BASES = {
    "digits": {"epochs": 8, "batch_size": 64, "flip": False, "crop": 1.0},
    "signdigits": {"epochs": 6, "batch_size": 32, "data": "folder", "backbone": "vit_tiny", "image_size": 64},
}
BASES |= {name: BASES[name.removesuffix("_seeds")] for name in WITH_LOGITS}
# Each method's own axes; a method's configurations are all combinations of them.
GRIDS: dict[str, dict[str, dict[str, tuple]]] = {
    "digits": {
        "lora": {"rank": (0, 1, 2, 4, 8, 16, 32), "lr": (1e-3, 2.5e-3, 6e-3, 1.5e-2)},
        "fairlora": {"rank": (1, 4, 8, 16, 32), "lam": LAMBDAS, "lr": (1e-3, 2.5e-3, 6e-3, 1.5e-2)},
        "fft": {"lr": (3e-4, 6e-4, 1e-3, 2e-3, 3.5e-3, 5e-3)},
        "fairfft": {"lam": LAMBDAS, "lr": (3e-4, 6e-4, 1e-3, 2e-3, 3.5e-3, 5e-3)},
    },
    "signdigits": {
        "lora": {"rank": (4, 16, 64), "lr": (1e-3, 3e-3)},
        "fairlora": {"rank": (4, 16, 64), "lam": (0.1, 1.0), "lr": (1e-3, 3e-3)},
        "fft": {"lr": (5e-5, 2e-4)},
        "fairfft": {"lam": (0.1, 1.0), "lr": (5e-5, 2e-4)},
    },
    "digits_seeds": {
        "lora": {"rank": (0, 2, 8, 32), "lr": (1e-3, 2.5e-3, 6e-3, 1.5e-2)},
        "fairlora": {"rank": (8, 32), "lam": (0.01, 0.1, 1.0), "lr": (2.5e-3, 6e-3, 1.5e-2)},
        "fft": {"lr": (6e-4, 1e-3, 2e-3, 3.5e-3)},
        "fairfft": {"lam": (0.1, 1.0), "lr": (6e-4, 1e-3, 2e-3)},
    },
    "signdigits_seeds": {
        "lora": {"rank": (4, 16), "lr": (1e-3, 3e-3)},
        "fairlora": {"rank": (16,), "lam": (0.1, 1.0), "lr": (1e-3, 3e-3)},
        "fft": {"lr": (5e-5, 2e-4)},
        "fairfft": {"lam": (0.1,), "lr": (5e-5, 2e-4)},
    },
}


def points(data: str) -> list[dict]:
    """The grid's configurations, each as the fields that it sets."""
    return [
        {"method": method, **dict(zip(axes, values))}
        for method, axes in GRIDS[data].items()
        for values in itertools.product(*axes.values())
    ]


def jobs(data: str, source: str | None, weights: str | None, parts: Path) -> list[tuple]:
    """What is still to be trained, seed after seed: (point, seed, store, weights, whether to keep
    logits, file)."""
    from trainables.prepare import datasets

    base = BASES[data]
    store = datasets.prepare(base.get("data", "digits"), source, base.get("image_size", 16))
    everything = [(seed, i, point) for seed in SEEDS[data] for i, point in enumerate(points(data))]
    logits = data in WITH_LOGITS
    named = [
        (base | point, seed, store, weights, logits, parts / f"{seed:02d}-{i:03d}.json")
        for seed, i, point in everything
    ]
    return [job for job in named if not job[-1].exists()]


def train(job: tuple) -> None:
    """One run's curve into its file."""
    import torch

    from trainables.config import TrainConfig
    from trainables.data.batches import open_data
    from trainables.files import replace_atomically
    from trainables.training.fit import Diverged, fit

    values, seed, store, weights, logits, path = job
    torch.set_num_threads(1)
    config, rows = TrainConfig(**values, seed=seed), []
    own = {"config_id": config.config_id, **{k: v for k, v in config.hyperparameters().items() if k != "epochs"}}
    try:
        for epoch in fit(config, open_data(store), weights):
            validation = {k: v for k, v in epoch.metrics.items() if k.startswith("val_")}
            rows.append({**own, "seed": seed, "epoch": epoch.number, "seconds": epoch.seconds, **validation})
            if logits and epoch.number == config.epochs:
                keep_logits(epoch.trainer, store, path.with_suffix(".npz"))
    except Diverged:
        pass
    replace_atomically(path, lambda temporary: temporary.write_text(json.dumps(rows)))
    print(path.name, values["method"], f"{sum(row['seconds'] for row in rows):.1f} s", flush=True)


def keep_logits(trainer, store: str, path: Path) -> None:
    """The model's logits on validation and test, in half precision."""
    import numpy as np

    from trainables.data.batches import open_confirmation
    from trainables.files import replace_atomically
    from trainables.training.fit import evaluate_split

    splits = {"validation": trainer.data, "test": open_confirmation(store)}
    logits = {name: evaluate_split(trainer.model, d, d.val, trainer.config).logits for name, d in splits.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would add a suffix to a name
            np.savez(file, **logits)

    replace_atomically(path, write)


def quantised(logits):
    """``[..., K]`` as int8: steps under the row's largest, which alone is 0 (of equals the first)."""
    import numpy as np

    logits = np.asarray(logits, float)
    steps = np.minimum(np.floor((logits - logits.max(axis=-1, keepdims=True)) * STEPS), -1)
    np.put_along_axis(steps, logits.argmax(axis=-1)[..., None], 0, axis=-1)
    return np.maximum(steps, -127).astype(np.int8)


def write_logits(parts: Path, store: str, path: Path) -> None:
    """All runs' logits so far, and whose they are, in one file."""
    import numpy as np

    from trainables.data.batches import open_confirmation, open_data

    runs = [np.load(part) for part in sorted(parts.glob("*.npz"))]
    arrays = {name: np.stack([quantised(run[name]) for run in runs]) for name in ("validation", "test")}
    for name, split in (("validation", open_data(store).val), ("test", open_confirmation(store).val)):
        arrays |= {f"{name}_label": split.label.numpy(), f"{name}_group": split.group.numpy()}
    with path.open("wb") as file:  # numpy would add a suffix to a name
        np.savez_compressed(file, **arrays)


def table(parts: Path):
    """All curves so far as one table; a part is a run."""
    import pandas as pd

    rows = [row for path in sorted(parts.glob("*.json")) for row in json.loads(path.read_text())]
    return pd.DataFrame(rows).convert_dtypes(convert_string=False, convert_boolean=False, convert_floating=False)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(GRIDS), required=True)
    p.add_argument("--source", help="the folder of signdigits")
    p.add_argument("--weights", help="ViT-Tiny's, for signdigits")
    p.add_argument("--parts", type=Path, help="where single curves wait; default: in the cache")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    args = p.parse_args()
    from trainables.files import cache_folder, replace_atomically
    from trainables.prepare import datasets

    parts = args.parts or cache_folder() / f"curves-{args.data}"
    parts.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for _ in pool.imap_unordered(train, jobs(args.data, args.source, args.weights, parts)):
            pass
    FOLDER.mkdir(exist_ok=True)
    replace_atomically(FOLDER / f"{args.data}.parquet", lambda path: table(parts).to_parquet(path, compression="zstd"))
    if args.data in WITH_LOGITS:
        base = BASES[args.data]
        store = str(datasets.prepare(base.get("data", "digits"), args.source, base.get("image_size", 16)))
        replace_atomically(FOLDER / f"{args.data}_logits.npz", lambda path: write_logits(parts, store, path))


if __name__ == "__main__":
    main()
