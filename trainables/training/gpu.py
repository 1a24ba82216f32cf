"""A process and its GPU: its share of the memory, the same numbers for the same seeds, and what a trial takes."""

import contextlib
import gc
import os
from dataclasses import replace

import torch

from trainables.config import TrainConfig
from trainables.data.batches import EVALUATED, Data, Split
from trainables.training.cuda_graph import WARM
from trainables.training.epoch import Diverged
from trainables.training.fit import Trainer

# What CUDA itself, its libraries and their kernels take of a GPU in each process, beside torch's own memory: 0.52 GiB
# with the first tensor and 0.76 GiB behind the first steps on an H200 (``tests/benchmarks/gpu_steps.py``), rounded up.
PROCESS_BYTES = 1 << 30


def claim(share: float) -> str:
    """The device of a process that was given ``share`` GPUs: "cuda", prepared, or "cpu"; to be called before any other
    use of the GPU. A share below 1 is a limit from here on: Ray's fractions are bookkeeping alone, and one trial could
    starve its neighbours."""
    if not share:
        return "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is then deterministic, whatever the stream
    if not torch.cuda.is_available():
        return "cpu"
    torch.use_deterministic_algorithms(True)
    # It is for finding bugs, and takes time. (A property that torch's module answers at run time, unknown to mypy.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if share < 1:
        limit(share)
    return "cuda"


def limit(share: float) -> None:
    """Let this process's tensors take at most ``share`` of the GPU's memory less what CUDA itself takes."""
    total = total_bytes()
    torch.cuda.set_per_process_memory_fraction(max(share * total - PROCESS_BYTES, PROCESS_BYTES / 8) / total)


def total_bytes() -> int:
    """The memory of the GPU that this process has."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def trial_bytes(config: TrainConfig, data: Data, weights: str | None) -> int:
    """Bytes of this process's GPU that a trial of ``config`` takes at most, CUDA's own included, by a few real steps:
    full batches until one is recorded and replayed, one that is not full, an evaluation's forward pass. Raises
    torch.OutOfMemoryError where not even the model fits; batches that do not fit go through in parts, as in any trial.
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
