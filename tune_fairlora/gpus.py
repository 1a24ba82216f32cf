"""``--gpus-per-trial auto``: how many trials share a GPU, found out by beginning one of each method on one."""

import math
from collections.abc import Sequence

from search_spaces.space import Space
from trainables.config import TARGETS, ConfigError, TrainConfig

AUTO = "auto"
# Recorded steps (trainables/steps.py) leave a GPU no gaps: two trials or more together train 7 to 11 % fewer images a
# second than one alone (tests/benchmarks/gpu_sharing.py). A second one is at work while the first makes its model,
# evaluates, and saves; more of them only start later than the searcher could have learnt from.
AT_MOST = 2
GIB = 1 << 30
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
    return {name: max(_values(entry), key=WEIGHTS[name]) for name, entry in found.items() if entry is not None}


def _values(distribution) -> Sequence:
    """The choices of one of Optuna's distributions, or its ends."""
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)


def measure(configs: list[TrainConfig], store: str, weights: str | None, cpus: float) -> tuple[list[int], int]:
    """Bytes of a GPU that a trial of each configuration takes, and what the GPU has. One of Ray's processes with a GPU
    of its own begins them. Raises ConfigError where one does not fit, in whatever parts."""
    import ray

    work = ray.remote(num_cpus=cpus, num_gpus=1)(_begun)
    try:
        return ray.get(work.remote(configs, store, weights))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise ConfigError(str(error.cause)) from error
        if type(error.cause).__name__ == "OutOfMemoryError":
            raise ConfigError(
                "one trial must fit into a GPU, but even its model does not: take a smaller backbone"
            ) from error
        raise


def _begun(configs: list[TrainConfig], store: str, weights: str | None) -> tuple[list[int], int]:
    """In Ray's process."""
    from trainables import gpu, probe
    from trainables.data import open_data

    gpu.claim(1.0)
    return [probe.trial_bytes(config, open_data(store), weights) for config in configs], gpu.total_bytes()


def share(needed: int, total: int, cores: int) -> float:
    """GPUs a trial, in steps of 1/10,000, as Ray counts: as many trials share one as have room and a processor core
    each of its ``cores``, but no more than ``AT_MOST``. ``needed`` and ``total`` are bytes."""
    n = max(1, min(total // needed, cores, AT_MOST))
    return math.floor(10_000 / n) / 10_000


def sentence(configs: list[TrainConfig], needed: list[int], total: int, gpus: float) -> str:
    """What was found out, for the terminal."""
    most, method = max(zip(needed, [config.method for config in configs]))
    return f"a trial takes up to {most / GIB:.1f} of {total / GIB:.0f} GiB ({method}): --gpus-per-trial {gpus:g}"
