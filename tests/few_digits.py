"""The digits with few images, for tests that train."""

import numpy as np

from trainables.data import batches
from trainables.data.batches import Data, Split
from trainables.prepare import datasets


def few(split: Split, n: int) -> Split:
    """``n`` images, evenly spread over the split."""
    chosen = np.linspace(0, len(split) - 1, n).astype(int)
    return Split(split.store, split.rows[chosen], split.label[chosen], split.group[chosen])


def few_digits(train: int, val: int) -> Data:
    whole = batches.open_data(datasets.prepare("digits", None, 16))
    return Data(whole.manifest, few(whole.train, train), few(whole.val, val))
