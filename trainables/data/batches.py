"""A store's splits as batches of tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import TrainConfig
from trainables.data.sampling import index_batches
from trainables.data.store import Manifest, Store
from trainables.seeds import seed_for

Batch = tuple[Tensor, Tensor, Tensor]  # images or tokens, label, group
EVALUATED = 128  # images a forward pass of an evaluation


@dataclass(frozen=True)
class Split:
    """The rows of one split: labels and groups int64 ``[n]``; images are read from the store when asked for."""

    store: Store
    rows: np.ndarray
    label: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, index: Tensor, device: str = "cpu") -> Tensor:
        """Float ``[len(index), 3, size, size]`` in [0, 1] of the split's own positions ``index``, on ``device``."""
        size = self.store.manifest.size
        images = torch.empty((len(index), size, size, 3), dtype=torch.uint8, pin_memory=_on_gpu(device))
        self.store.images(self.rows[index.numpy()], images.numpy())
        return moved(images.permute(0, 3, 1, 2), device).float().div_(255)


@dataclass(frozen=True)
class Data:
    """What a trial may see: the training and the validation split. The test split is not in here."""

    manifest: Manifest
    train: Split
    val: Split


@lru_cache(maxsize=1)
def open_data(path: str | Path) -> Data:
    """The search's view of a store: train and val alone."""
    store = Store(path)
    return Data(store.manifest, open_split(store, "train"), open_split(store, "val"))


@lru_cache(maxsize=1)
def open_confirmation(path: str | Path, trainval: bool = False) -> Data:
    """What a confirmation alone may see, once a search is over: ``val`` here is the test split. ``trainval``
    trains on train and val together, as the papers do once the hyperparameters are chosen."""
    store = Store(path)
    train = open_split(store, "train", "val") if trainval else open_split(store, "train")
    return Data(store.manifest, train, open_split(store, "test"))


def open_split(store: Store, *names: str) -> Split:
    """One split of a store, or several as one; the search never asks for ``test``."""
    rows = np.sort(np.concatenate([store.rows(name) for name in names]))
    return Split(store, rows, torch.from_numpy(store.label[rows]), torch.from_numpy(store.group[rows]))


def training_batches(
    split: Split, config: TrainConfig, epoch: int, device: str = "cpu", tokens: np.ndarray | None = None
) -> Iterator[Batch]:
    """(images float ``[b, 3, size, size]`` in [0, 1], label, group) in the order of ``sampling.py``, augmented.

    Order and augmentation have a stream each an epoch: an epoch can be repeated without the ones before it, and
    switching augmentation off leaves the order as it was. ``tokens`` ``[len(split), …]`` (``prefix_cache.py``) come in
    the images' place where they are given, float.
    """
    order, augment = (_generator(config.seed, stream, epoch) for stream in ("order", "augment"))
    view = view_of(config, epoch)
    drawn = None if view is None else view_draws(len(split), config, view)
    for index in index_batches(split.label, split.group, config, order):
        label, group = moved(split.label[index], device), moved(split.group[index], device)
        if tokens is not None:
            yield _rows(tokens, index, device), label, group
            continue
        images = split.pixels(index, device)
        yield transformed(images, drawn.of(index) if drawn else draws(len(index), config, augment)), label, group


def evaluation_batches(
    split: Split, device: str = "cpu", size: int = EVALUATED, tokens: np.ndarray | None = None
) -> Iterator[Batch]:
    """(images, label, group) as in ``training_batches``, in the split's order and as they are."""
    for index in torch.arange(len(split)).split(size):
        inputs = split.pixels(index, device) if tokens is None else _rows(tokens, index, device)
        yield inputs, moved(split.label[index], device), moved(split.group[index], device)


def _rows(tokens: np.ndarray, index: Tensor, device: str) -> Tensor:
    return moved(torch.from_numpy(tokens[index.numpy()]), device).float()


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """``tensor`` on ``device``: to a GPU through pinned memory, so that the processor need not wait for the copy.
    Images go as the store's bytes; what follows (floats, flips, crops) is computed there."""
    if not _on_gpu(device):
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def _on_gpu(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


class Augmentation(NamedTuple):
    """What chance decides of n images: whether each is flipped, bool ``[n]``; its crop's area share ``[n]``, and where
    in what the crop leaves free it lies, ``[n, 2]`` in [-1, 1]. None where the configuration asks for no such thing."""

    flip: Tensor | None
    area: Tensor | None
    shift: Tensor | None

    def of(self, index: Tensor) -> "Augmentation":
        """Those of the images ``index`` alone."""
        return Augmentation(*(None if part is None else part[index] for part in self))


def draws(n: int, config: TrainConfig, generator: torch.Generator) -> Augmentation:
    """The flips and crops of ``n`` images from ``generator``: a crop covers a uniform area share in [crop, 1]."""
    flip = torch.rand(n, generator=generator) < 0.5 if config.flip else None
    if config.crop == 1:
        return Augmentation(flip, None, None)
    area = torch.rand(n, generator=generator) * (1 - config.crop) + config.crop
    return Augmentation(flip, area, torch.rand(n, 2, generator=generator) * 2 - 1)


def view_of(config: TrainConfig, epoch: int) -> int | None:
    """The fixed view that ``epoch`` (from 0) shows; None where each epoch draws anew, or nothing is augmented."""
    return epoch % config.views if config.views and config.augments else None


def view_draws(n: int, config: TrainConfig, view: int) -> Augmentation:
    """Flips and crops of fixed view ``view`` for the ``n`` images of a split: the same in every trial, whatever its
    seed and its order."""
    return draws(n, config, _generator(0, "view", view))


def transformed(images: Tensor, drawn: Augmentation) -> Tensor:
    """``images`` float ``[b, 3, size, size]`` flipped and cropped as ``drawn`` says. A crop keeps the aspect, and is
    resampled bilinearly to the image's size."""
    n = len(images)
    if drawn.flip is not None:
        images = torch.where(moved(drawn.flip, images.device)[:, None, None, None], images.flip(-1), images)
    if drawn.area is not None and drawn.shift is not None:
        scale = drawn.area.sqrt()
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = drawn.shift * (1 - scale)[:, None]
        grid = F.affine_grid(moved(theta, images.device), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return images


def _generator(seed: int, *names: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, *names))
