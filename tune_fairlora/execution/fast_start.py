"""What makes a search start faster: libraries are loaded beside Ray's start, and Ray starts fewer programs.

``ray.init`` starts three Python programs beside its own two, and waits for the first: the dashboard's server (also
without a dashboard: it would send usage statistics), the autoscaler's monitor (there is nothing to scale on one
machine) and the log monitor (it carries the workers' output to the driver; ``log_to_driver`` is off). No option leaves
them out, so Ray's own functions are replaced while it starts; one that another version of Ray lacks is left alone, and
a start without the replacement is only slower. A Ray that runs already (``--address``) is as its owner made it.
"""

import contextlib
import glob
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from tune_fairlora.execution.gpu_sharing import AUTO
from tune_fairlora.plan.options import SearchOptions

# Module, class ("" for a function of the module), function, and what it returns where Ray does without as well.
LEFT_OUT: list[tuple[str, str, str, object]] = [
    ("ray._private.node", "Node", "start_monitor", None),
    ("ray._private.node", "Node", "start_log_monitor", None),
    ("ray._private.services", "", "start_api_server", (None, None)),  # address and process, as where it did not start
]

LOAD_SECONDS = 60
TRIAL_AHEAD = "RAY_preload_python_modules"
GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # Nvidia's, AMD's, and in Windows's Linux
# What a trial's process imports; the last says that all is loaded.
TRIAL = (
    "trainables.trial.ray_trainable",
    "trainables.trial.lean_peft",
    "trainables.trial.trial",
    "tune_fairlora.execution.worker_ready",
)


def load_ahead(options: SearchOptions, trials: int) -> dict[str, str]:
    """Ray's settings by which it starts a process for each processor at once, which loads what a trial needs while this
    process still plans. Nothing where not each would become a trial's, or where there is a GPU: a process must not
    look for one before Ray has said which is its own."""
    every = os.cpu_count() or 1
    if options.gpus_per_trial not in (None, 0, AUTO) or any(glob.glob(files) for files in GPUS):
        return {}
    if options.cpus_per_trial != 1 or min(options.max_concurrent or every, trials) < every:
        return {}
    settings = {"RAY_prestart_worker_first_driver": "1", TRIAL_AHEAD: ",".join(TRIAL)}
    # Once Tune has reserved the processors for its trials, Ray would end the processes that still wait for theirs.
    settings["RAY_idle_worker_killing_time_threshold_ms"] = "600000"
    # Ray says this to a trial's process later, which is too late for libraries that are loaded by then.
    return settings if "OMP_NUM_THREADS" in os.environ else settings | {"OMP_NUM_THREADS": "1"}


def plain_environment(local: bool) -> None:
    """Ray hands its processes only to trials that ask for no environment of their own. Ray Tune's have one of a single
    variable, which tells Lightning not to fork: nothing here is Lightning's. And of what this process has for Ray and
    for Amazon's cloud, which those of a Ray that it started itself have from it."""
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    if local:
        class_cache.ENV_VARS_TO_PROPAGATE.clear()


def import_meanwhile(*parts: Sequence[str]) -> threading.Event:
    """Import modules in a thread, as Ray's start is mostly waiting for other processes. The event says that those of
    the first part are imported. An error shows where the module is used."""
    done = threading.Event()

    def work() -> None:
        for modules in parts:
            for module in modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            done.set()

    threading.Thread(target=work, name="import").start()
    return done


@contextlib.contextmanager
def bare_ray() -> Iterator[None]:
    """Inside, ``ray.init`` starts no more than a search needs; not for several threads at once."""
    with contextlib.ExitStack() as end:
        for module, owner, name, result in LEFT_OUT:
            home = _home(module, owner)
            if hasattr(home, name):
                end.callback(setattr, home, name, getattr(home, name))
                setattr(home, name, _returning(result))
        yield


def _home(module: str, owner: str) -> object:
    """The module, or the class in it; None where this version of Ray has no such."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return getattr(found, owner, None) if owner else found


def _returning(result: object) -> Callable[..., object]:
    return lambda *args, **options: result
