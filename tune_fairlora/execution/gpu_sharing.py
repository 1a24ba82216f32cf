"""``--gpus-per-trial auto``: how many trials share a GPU, measured by beginning one of each method on one."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from search_spaces.space import Space, outermost
from trainables.config import TARGETS, ConfigError, TrainConfig
from trainables.files import first_line

AUTO = "auto"
# Recorded steps (trainables/training/cuda_graph.py) leave a GPU no gaps: two trials or more together train 7 to 11 %
# fewer images a second than one alone (tests/benchmarks/gpu_sharing.py). A second one is at work while the first makes
# its model, evaluates, and saves; more of them only start later than the searcher could have learnt from.
MOST_ON_ONE = 2
GIB = 1 << 30
PROBE_SECONDS = 600  # for a free GPU, the libraries and a few steps
REMEDY = "say how many, --gpus-per-trial 1"
# Of the hyperparameters that decide how much memory a trial takes, a sort key: the largest takes most.
MEMORY_KEYS: dict[str, Callable[[Any], Any]] = {
    "rank": lambda value: value,
    "dropout": lambda value: value,
    "batch_size": lambda value: value,
    "micro_batch": lambda value: value or math.inf,  # 0 is the whole batch
    "last_blocks": lambda value: value or math.inf,  # 0 is every block
    "targets": TARGETS.index,
    "dtype": lambda value: value == "float32",
}


def largest(space: Space) -> list[TrainConfig]:
    """The configuration of each method that takes most memory: its first point with the largest values there are."""
    configs = []
    for method in space.methods:
        drawn = {name: space.distribution(name, method) for name in MEMORY_KEYS if name in space.search}
        values = {name: max(outermost(d), key=MEMORY_KEYS[name]) for name, d in drawn.items() if d is not None}
        configs.append(space.config(space.first_point(method) | values, 0))
    return configs


def measure(configs: list[TrainConfig], store: str, weights: str | None, cpus: float) -> tuple[list[int], int]:
    """Bytes of GPU memory that a trial of each configuration takes, and what the GPU has; all GPUs are taken to have as
    much. A process of Ray's with a GPU of its own begins the trials. Raises ConfigError where that cannot be done."""
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=1)(_begin_trials)
    try:
        measured: tuple[list[int], int] = ray.get(task.remote(configs, store, weights), timeout=PROBE_SECONDS)
        return measured
    except ray.exceptions.GetTimeoutError as error:
        rule = "--gpus-per-trial auto needs a free GPU"
        raise ConfigError(f"{rule}, but got none in {PROBE_SECONDS} s: {REMEDY}") from error
    except ray.exceptions.RayError as error:  # of the task, or of whatever became of its process
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ConfigError):
            raise ConfigError(str(cause)) from error
        reason = first_line(cause)
        raise ConfigError(f"--gpus-per-trial auto could not begin a trial on a GPU ({reason}): {REMEDY}") from error


def _begin_trials(configs: list[TrainConfig], store: str, weights: str | None) -> tuple[list[int], int]:
    """What ``measure`` returns, in Ray's process."""
    from trainables.data.batches import open_data
    from trainables.training import gpu

    if gpu.claim(1.0) != "cuda":
        raise ConfigError(f"--gpus-per-trial auto needs a GPU that torch can use, but Ray's is none: {REMEDY}")
    return [gpu.trial_bytes(config, open_data(store), weights) for config in configs], gpu.total_bytes()


def share(needed: int, total: int, most: int) -> float:
    """GPUs a trial, in steps of 1/10,000, as Ray counts: as many trials share one as have room in its memory, but no
    more than ``most`` and ``MOST_ON_ONE``. ``needed`` and ``total`` are bytes."""
    n = max(1, min(total // needed, most, MOST_ON_ONE))
    return math.floor(10_000 / n) / 10_000


def most_on_one(nodes: Sequence[dict[str, float]], cpus: float, trials: int) -> int:
    """How many of ``trials`` may have to share one of the ``nodes``' GPUs. Where there are enough GPUs none does, as
    Ray would fill one before it takes the next. Each trial has its ``cpus``, on the node with the fewest for a GPU."""
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= cpus]
    by_cores = min(int(node["CPU"] / cpus / node["GPU"] + 1e-9) for node in with_gpu)
    return max(1, min(by_cores, math.ceil(trials / sum(node["GPU"] for node in with_gpu))))
