"""How much of a GPU's memory a trial takes: a few real steps, looked at from outside."""

import contextlib
import gc
from dataclasses import replace

import torch

from trainables.config import TrainConfig
from trainables.data.batches import EVALUATED, Data, Split
from trainables.training.cuda_graph import WARM
from trainables.training.divergence import Diverged
from trainables.training.fit import Trainer
from trainables.training.gpu import PROCESS_BYTES


def trial_bytes(config: TrainConfig, data: Data, weights: str | None) -> int:
    """Bytes of this process's GPU that a trial of ``config`` takes at most, CUDA's own included.

    A trial is begun: full batches until a step is recorded and replayed, one batch that is not full, an evaluation's
    forward pass. Raises torch.OutOfMemoryError where not even the model fits; batches that do not fit go through in
    parts, as in any trial.
    """
    gc.collect()  # an earlier trial's
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config = replace(config, cache_prefix=False)  # no file is made of what is looked at once
    train = _some(data.train, (WARM + 2) * config.batch_size + max(1, config.batch_size // 2))
    trainer = Trainer(config, Data(data.manifest, train, _some(data.val, EVALUATED)), weights, "cuda", None)
    with contextlib.suppress(Diverged):  # which is the trial's own matter
        trainer.train_epoch()
    trainer.evaluate()
    return torch.cuda.max_memory_reserved() + PROCESS_BYTES


def _some(split: Split, n: int) -> Split:
    """``n`` images of ``split``, again from its start where it has fewer."""
    chosen = torch.arange(n) % len(split)
    return Split(split.store, split.rows[chosen.numpy()], split.label[chosen], split.group[chosen])
