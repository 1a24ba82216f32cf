"""DATASETS: how each data set becomes a store; and a store's splits as batches of tensors."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import ConfigError, TrainConfig, lookup
from trainables.prepare import digits, folder
from trainables.seeds import seed_for
from trainables.store import Manifest, Store, cache_folder, write


def _digits(size: int) -> Path:
    """The store of the rendered digits, keyed by the code that renders them."""
    key = hashlib.sha256(Path(digits.__file__).read_bytes()).hexdigest()[:16]
    path = cache_folder() / f"digits-{size}-{key}.arrow"
    if not path.exists():
        parts = digits.render(size)
        manifest = Manifest("digits", size, digits.CLASSES, digits.GROUPS, None, key, {"images": len(parts["label"])})
        write(path, manifest, zip(parts["images"], parts["label"], parts["group"], parts["split"]))
    return path


DATASETS: dict[str, Callable[..., Path]] = {"digits": _digits, "folder": folder.prepare}


Batch = tuple[Tensor, Tensor, Tensor]  # images, label, group


@dataclass(frozen=True)
class Split:
    """The rows of one split: labels and groups int64 ``[n]``; images are read from the store when asked for."""

    store: Store
    rows: np.ndarray
    label: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, index: Tensor) -> Tensor:
        """uint8 ``[len(index), 3, size, size]`` of the split's own positions ``index``."""
        return torch.from_numpy(self.store.images(self.rows[index.numpy()])).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Data:
    """What a trial may see: the training and the validation split. The test split is not in here."""

    manifest: Manifest
    train: Split
    val: Split


def prepare(name: str, source: str | Path | None, size: int, **options) -> Path:
    """The path of the data set's store at ``size`` pixels, made if the cache lacks it. Raises ConfigError."""
    make = lookup(DATASETS, name, "data set")
    if name == "digits":
        if source is not None:
            raise ConfigError(f"the digits come with scikit-learn and take no --data, but got --data {source}")
        return make(size)
    if source is None:
        raise ConfigError(f"data set {name} needs --data DIR, the folder with metadata.csv")
    return make(source, size, **options)


@lru_cache(maxsize=1)
def open_data(path: str | Path) -> Data:
    """The search's view of a store: train and val alone."""
    store = Store(path)
    return Data(store.manifest, open_split(store, "train"), open_split(store, "val"))


def open_split(store: Store, name: str) -> Split:
    """One split of a store; the search never asks for ``test``."""
    rows = store.rows(name)
    return Split(store, rows, torch.from_numpy(store.label[rows]), torch.from_numpy(store.group[rows]))


def training_batches(split: Split, config: TrainConfig, epoch: int, device: str = "cpu") -> Iterator[Batch]:
    """(images float ``[b, 3, size, size]`` in [0, 1], label, group) in a random order, augmented.

    Order and augmentation come from the streams (seed, "order", epoch) and (seed, "augment", epoch): an epoch can be
    repeated without the ones before it, and switching augmentation off leaves the order as it was.
    """
    order = torch.randperm(len(split), generator=_generator(config.seed, "order", epoch))
    augment = _generator(config.seed, "augment", epoch)
    for index in order.split(config.batch_size):
        images = split.pixels(index).to(device).float().div_(255)
        label, group = split.label[index].to(device), split.group[index].to(device)
        yield augmented(images, config, augment), label, group


def evaluation_batches(split: Split, device: str = "cpu", size: int = 128) -> Iterator[Batch]:
    """(images, label, group) as in ``training_batches``, in the split's order and as they are."""
    for index in torch.arange(len(split)).split(size):
        images = split.pixels(index).to(device).float().div_(255)
        yield images, split.label[index].to(device), split.group[index].to(device)


def augmented(images: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Random flips and random crops scaled back, on the batch at once; float ``[b, 3, size, size]`` in and out.

    A crop covers a uniform area share in [``config.crop``, 1], keeps the aspect, and is resampled bilinearly.
    """
    n = len(images)
    if config.flip:
        flipped = (torch.rand(n, generator=generator) < 0.5).to(images.device)
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    if config.crop < 1:
        area = torch.rand(n, generator=generator) * (1 - config.crop) + config.crop
        scale = area.sqrt()
        shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = shift
        grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return images


def _generator(seed: int, *names: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, *names))
