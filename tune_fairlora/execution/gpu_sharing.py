"""``--gpus-per-trial auto``: how many trials share a GPU, found out by beginning one of each method on one."""

import math
from collections.abc import Sequence

from search_spaces.space import Space, outermost
from trainables.config import TARGETS, ConfigError, TrainConfig

AUTO = "auto"
# Recorded steps (trainables/training/cuda_graph.py) leave a GPU no gaps: two trials or more together train 7 to 11 %
# fewer images a second than one alone (tests/benchmarks/gpu_sharing.py). A second one is at work while the first makes
# its model, evaluates, and saves; more of them only start later than the searcher could have learnt from.
AT_MOST = 2
GIB = 1 << 30
SECONDS = 600  # for a free GPU, the libraries and a few steps
INSTEAD = "say how many, --gpus-per-trial 1"
# Of values that decide how much memory a trial takes, a sort key: the largest takes most.
WEIGHTS = {
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
    return [space.config(space.first_point(method) | _largest(space, method), 0) for method in space.methods]


def _largest(space: Space, method: str) -> dict[str, object]:
    found = {name: space.distribution(name, method) for name in WEIGHTS if name in space.search}
    return {name: max(outermost(entry), key=WEIGHTS[name]) for name, entry in found.items() if entry is not None}


def measure(configs: list[TrainConfig], store: str, weights: str | None, cpus: float) -> tuple[list[int], int]:
    """Bytes of a GPU that a trial of each configuration takes, and what the GPU has, as the others are taken to have.
    One of Ray's processes with a GPU of its own begins them. Raises ConfigError where that cannot be done."""
    import ray

    work = ray.remote(num_cpus=cpus, num_gpus=1)(_begun)
    try:
        return ray.get(work.remote(configs, store, weights), timeout=SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise ConfigError(f"--gpus-per-trial auto needs a free GPU, but got none in {SECONDS} s: {INSTEAD}") from error
    except ray.exceptions.RayError as error:  # of the task, or of whatever became of its process
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ConfigError):
            raise ConfigError(str(cause)) from error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ConfigError(f"--gpus-per-trial auto could not begin a trial on a GPU ({reason}): {INSTEAD}") from error


def _begun(configs: list[TrainConfig], store: str, weights: str | None) -> tuple[list[int], int]:
    """In Ray's process."""
    from trainables.data.batches import open_data
    from trainables.training import gpu, gpu_memory

    if gpu.claim(1.0) != "cuda":
        raise ConfigError(f"--gpus-per-trial auto needs a GPU that torch can use, but Ray's is none: {INSTEAD}")
    return [gpu_memory.trial_bytes(config, open_data(store), weights) for config in configs], gpu.total_bytes()


def share(needed: int, total: int, most: int) -> float:
    """GPUs a trial, in steps of 1/10,000, as Ray counts: as many trials share one as have room in its memory, but no
    more than ``most`` and ``AT_MOST``. ``needed`` and ``total`` are bytes."""
    n = max(1, min(total // needed, most, AT_MOST))
    return math.floor(10_000 / n) / 10_000


def most_on_one(nodes: Sequence[dict[str, float]], cpus: float, trials: int) -> int:
    """How many of ``trials`` may have to share one of the ``nodes``' GPUs: where there are GPUs enough none does, as
    Ray would fill one before it takes the next; and each trial has its ``cpus``, on the node that has fewest for a GPU.
    """
    having = [node for node in nodes if node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= cpus]
    cores = min(int(node["CPU"] / cpus / node["GPU"] + 1e-9) for node in having)
    return max(1, min(cores, math.ceil(trials / sum(node["GPU"] for node in having))))


def sentence(configs: list[TrainConfig], needed: list[int], total: int, gpus: float) -> str:
    """What was found out, for the terminal."""
    most, method = max(zip(needed, [config.method for config in configs]))
    return f"a trial takes up to {most / GIB:.1f} of {total / GIB:.0f} GiB ({method}): --gpus-per-trial {gpus:g}"
