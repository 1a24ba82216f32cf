"""The digits with few images, for tests that train, and what rounding may turn in what they find."""

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.batches import Data, Split
from trainables.models.forward import forward
from trainables.prepare import datasets


def few(split: Split, n: int) -> Split:
    """``n`` images, evenly spread over the split."""
    chosen = np.linspace(0, len(split) - 1, n).astype(int)
    return Split(split.store, split.rows[chosen], split.label[chosen], split.group[chosen])


def few_digits(train: int, val: int) -> Data:
    whole = batches.open_data(datasets.prepare("digits", None, 16))
    return Data(whole.manifest, few(whole.train, train), few(whole.val, val))


@torch.inference_mode()
def logits_of(model: nn.Module, split: Split, config: TrainConfig) -> Tensor:
    """``[n, classes]``, of all images of the split at once."""
    return forward(model.eval(), split.pixels(torch.arange(len(split))), config).float()


def near_ties(logits: Tensor) -> int:
    """How many images another code path may name otherwise, as their two largest logits differ by rounding or little
    more: 2e-6 of the largest logit, ten times what float32's 6e-8 grow to in vit_nano's three blocks. Nearly always
    0; a share among the metrics may be off by no more than the number itself."""
    first, second = logits.topk(2).values.T
    return int((first - second < 2e-6 * logits.abs().max()).sum())
