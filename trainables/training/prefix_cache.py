"""What frozen blocks compute of an image ("tokens"): kept in a file, and read by every later epoch and trial.

There is one ``prefix-<key>.npy`` in the cache folder a split and view, memory-mapped and shared by all processes of the
node. The key is of all that the numbers depend on, so that a file is never out of date; it may be deleted at any time.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeGuard

import numpy as np
import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.patch_dropout import PatchDropout
from timm.models import VisionTransformer
from torch import Tensor, nn

from trainables.config import ConfigError, TrainConfig
from trainables.data import batches
from trainables.data.batches import Data, Split
from trainables.files import cache_folder, file_hash, locked, plain, remove_torn, replace_atomically
from trainables.models import forward
from trainables.models.backbones import BACKBONES
from trainables.models.forward import normalised, precision, prefix
from trainables.models.weights import Transformer

LARGEST = 65504.0  # float16's; a file with anything beyond is float32
BATCH = 64  # images a forward pass, always: sums over other shapes may round differently
DROPOUTS = (nn.modules.dropout._DropoutNd, DropPath, PatchDropout)


class PrefixCache:
    """The tokens of one run's splits, made where a file is missing. Raises ConfigError if they would fill the disk.

    Kept are plain ViTs' (no Swin's), for a LoRA method with ``last_blocks`` below their depth and ``cache_prefix``; the
    training split's unless every epoch draws its augmentation anew (``views`` = 0). All that is not kept is None.
    float16's rounding is the only difference to computing anew; a file with values beyond its range is float32.
    """

    def __init__(self, model: Transformer, config: TrainConfig, data: Data, device: str):
        self.config, self.data, self.device, self.applies = config, data, device, False
        if not _applies(model, config):
            return
        self.model, self.applies = model, True
        self._weights = _hash_of_frozen(model, config.last_blocks)
        views: Iterable[int | None] = range(min(config.views, config.epochs)) if config.augments else [None]
        files = [(data.val, None), *((data.train, view) for view in views)]
        missing = [split for split, view in files if not self._path(split, view).exists()]
        self._require_space(sum(self._bytes(split, np.float16) for split in missing))

    def training(self, epoch: int) -> np.ndarray | None:
        """Tokens ``[len(train), tokens, width]`` that ``epoch`` (from 0) trains on, by position in the split."""
        if not self.applies or (self.config.augments and not self.config.views):
            return None
        return self._tokens(self.data.train, batches.view_of(self.config, epoch))

    def validation(self) -> np.ndarray | None:
        """Tokens ``[len(val), tokens, width]``."""
        return self._tokens(self.data.val, None) if self.applies else None

    def _tokens(self, split: Split, view: int | None) -> np.ndarray:
        """Processes that want the same file take turns: the first makes it, the others find it."""
        path, shape = self._path(split, view), self._shape(split)
        tokens = _mapped(path, shape)
        if tokens is None:
            with locked(path):
                tokens = _mapped(path, shape)
                if tokens is None:
                    remove_torn(path)
                    self._make(path, split, view)
                    tokens = _mapped(path, shape)
        assert tokens is not None, f"{path} was deleted as soon as it was written"
        return tokens

    def _make(self, path: Path, split: Split, view: int | None) -> None:
        for dtype in (np.float16, np.float32):
            self._require_space(self._bytes(split, dtype))
            with contextlib.suppress(OverflowError):  # float16's alone
                return replace_atomically(path, partial(self._write, split, view, dtype))

    def _write(self, split: Split, view: int | None, dtype: type, path: Path) -> None:
        """Written, not mapped: a full disk is an OSError here, and would be the process's death in a mapping."""
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": self._shape(split)}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for tokens in self._computed(split, view):
                if dtype is np.float16 and not bool((tokens.abs() <= LARGEST).all()):  # NaN is beyond it as well
                    raise OverflowError
                file.write(tokens.cpu().numpy().astype(dtype).tobytes())

    @torch.inference_mode()
    def _computed(self, split: Split, view: int | None) -> Iterator[Tensor]:
        """The split's tokens, ``BATCH`` images at a time, float32."""
        drawn = None if view is None else batches.view_draws(len(split), self.config, view)
        for index in torch.arange(len(split)).split(BATCH):
            images = split.pixels(index, self.device)
            images = images if drawn is None else batches.transformed(images, drawn.of(index))
            with precision(self.config, images.device):
                tokens = prefix(self.model, normalised(images, self.config), self.config.last_blocks)
            yield tokens.float()

    def _shape(self, split: Split) -> tuple[int, int, int]:
        tokens = self.model.patch_embed.num_patches + self.model.num_prefix_tokens
        return len(split), tokens, self.model.embed_dim

    def _bytes(self, split: Split, dtype: type) -> int:
        return int(np.prod(self._shape(split))) * np.dtype(dtype).itemsize

    def _require_space(self, needed: int) -> None:
        folder = cache_folder()
        free = shutil.disk_usage(folder).free
        if needed > free / 2:
            raise ConfigError(
                f"what frozen blocks compute may take half of the {free / 1e9:.2f} GB that are free in "
                f"{plain(str(folder))}, but needs {needed / 1e9:.2f} GB: compute it anew each time "
                "(set cache_prefix=false), or let TUNE_FAIRLORA_CACHE be a folder on a larger disk"
            )

    def _path(self, split: Split, view: int | None) -> Path:
        """Where the tokens lie: named by weights, images and all that stands between them."""
        config, manifest = self.config, self.data.manifest
        images = [manifest.name, manifest.size, manifest.fingerprint or file_hash(split.store.path)]
        images += [split.store.path.name, hashlib.sha256(split.rows.astype("<i8").tobytes()).hexdigest()]
        images += [None if view is None else [config.flip, config.crop, view]]
        depth = len(self.model.blocks) - config.last_blocks
        network = [self._weights, config.backbone, repr(BACKBONES[config.backbone]), depth, config.dtype]
        # What else decides how sums are rounded, and the code: a run's numbers must not depend on who came first.
        kind = torch.device(self.device).type
        threads = torch.get_num_threads() if kind == "cpu" else 0
        code = [file_hash(file) for file in (__file__, batches.__file__, forward.__file__)]
        machine = [kind, threads, torch.__version__, timm.__version__, *code]
        key = json.dumps([images, network, machine])
        return cache_folder() / f"prefix-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _applies(model: Transformer, config: TrainConfig) -> TypeGuard[VisionTransformer]:
    """Whether what comes before the last blocks is a function of the image alone."""
    if not (config.cache_prefix and config.has_prefix) or type(model) is not VisionTransformer:
        return False
    blocks = model.blocks[: -config.last_blocks]
    frozen = nn.ModuleList([model.patch_embed, model.pos_drop, model.patch_drop, model.norm_pre, *blocks])
    drops = [module for module in frozen.modules() if isinstance(module, DROPOUTS)]
    # By their own attributes: p is torch's, drop_prob DropPath's, prob PatchDropout's.
    chance = any(getattr(module, name, 0) for module in drops for name in ("p", "drop_prob", "prob"))
    return len(blocks) > 0 and not chance and not any(p.requires_grad for p in frozen.parameters())


def _hash_of_frozen(model: VisionTransformer, m: int) -> str:
    """sha256 over every tensor that ``suffix`` does not read: the weights in memory, wherever they came from."""
    depth = len(model.blocks)
    trained = ("norm.", "fc_norm.", "head.", *(f"blocks.{i}." for i in range(depth - m, depth)))
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith(trained):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The file's tokens, mapped read-only; None where it is absent, cut short or none of ours."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype in (np.float16, np.float32) else None
