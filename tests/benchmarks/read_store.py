"""How fast a store is read, against decoding the same image files anew: images a second at 224 px, interleaved.

    python tests/benchmarks/read_store.py ../shared/data/signdigits --images 600 --enlarge 500

A: training_batches over a prepared store (memory-mapped, nothing decoded), in this process, one thread.
B: torch's DataLoader with 2 workers, each decoding with Pillow as `trainables/prepare/decode.py` does, float batches.
Both end with float tensors [32, 3, 224, 224] in [0, 1]; --augment adds flips and crops (the same code on the batch) to
both. --enlarge N first saves each photograph anew with its longer side at N pixels, the
size of Waterbirds' and Aircraft's photographs, as the ones at hand may be small.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.store import Manifest, Store
from trainables.prepare import decode
from trainables.prepare.build import build
from trainables.prepare.listing import read_listing

SIZE, BATCH = 224, 32


class Files(Dataset):
    """Image files, decoded when asked for."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(decode.decode(self.files[i], SIZE).copy()).permute(2, 0, 1)


def saved(files: list[Path], folder: Path, side: int) -> list[Path]:
    out = []
    for i, file in enumerate(files):
        with Image.open(file) as image:
            scale = side / max(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        out.append(folder / f"{i}.jpg")
    return out


def read_store(split: batches.Split, config: TrainConfig, epoch: int) -> float:
    start = time.perf_counter()
    count = sum(len(images) for images, _, _ in batches.training_batches(split, config, epoch))
    return count / (time.perf_counter() - start)


def read_files(loader: DataLoader, config: TrainConfig) -> float:
    generator, start, count = torch.Generator().manual_seed(0), time.perf_counter(), 0
    for batch in loader:
        count += len(batches.transformed(batch.float().div_(255), batches.draws(len(batch), config, generator)))
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with metadata.csv")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--enlarge", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--augment", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        compare(args, Path(name))


def compare(args: argparse.Namespace, folder: Path) -> None:
    listing = read_listing(args.folder)
    chosen = np.random.default_rng(0).permutation(len(listing.files))[: args.images]
    files = [listing.files[i] for i in chosen]
    files = saved(files, folder, args.enlarge) if args.enlarge else files
    splits = np.array(["train"] * (len(files) - 1) + ["val"])  # a store must have validation images
    part = replace(listing, files=files, label=listing.label[chosen], group=listing.group[chosen], split=splits)
    store_path = folder / "store.arrow"
    build(store_path, Manifest("folder", SIZE, listing.classes, listing.groups), part, files[0].parent, 2)
    split = batches.open_split(Store(store_path), "train")
    config = TrainConfig(image_size=SIZE, batch_size=BATCH, flip=args.augment, crop=0.8 if args.augment else 1.0)
    loader = DataLoader(Files(files), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    read_store(split, config, 0), read_files(loader, config)  # workers started, files in the page cache
    pairs = [(read_store(split, config, r), read_files(loader, config)) for r in range(args.rounds)]
    ratios = sorted(a / b for a, b in pairs)
    print(f"{len(files)} images, {SIZE} px, {args.rounds} rounds, augmentation {'on' if args.augment else 'off'}")
    print(f"store {statistics.median(a for a, _ in pairs):8.0f} images/s (one process, one thread)")
    print(f"files {statistics.median(b for _, b in pairs):8.0f} images/s (2 workers)")
    print(f"ratio {statistics.median(ratios):8.1f} (from {ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
