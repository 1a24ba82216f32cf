"""What makes a search start faster through private parts of other libraries, behind one switch.

``TUNE_FAIRLORA_FAST_START=0`` in the environment turns all of it off; a search gives the same results, some seconds
later. Where any of it is missing or fails (in another version of Ray, say), ``RayCluster`` starts Ray once more without
it, and the search's log.txt says so in one line. ``tests/test_private_apis.py`` lists every private name.

- ``bare_ray``: Ray starts fewer programs.
- ``worker_settings``, ``worker_ready.py``: Ray starts a worker for each processor at once, which imports what a trial
  needs while this process still plans.
- ``shared_workers``: Ray Tune's trials take those workers.
- ``trainables/trial/lean_peft.py``: a trial's process imports peft without transformers.
- ``startup.leave``: the process ends without freeing each object.

``import_meanwhile`` uses nothing private, but goes with them: without it, modules are imported where they are used.
Imports only the standard library, as every worker imports this module.
"""

import contextlib
import glob
import importlib
import os
import threading
from collections.abc import Iterator, Sequence

from tune_fairlora.startup import fast_start_enabled

# Methods of ray._private.node.Node that start a Python program each: the autoscaler's monitor (there is nothing to
# scale on one machine), the log monitor (it carries the workers' output to the driver; ``log_to_driver`` is off) and
# the dashboard's server (also without a dashboard: it would send usage statistics). ``ray.init`` waits for the first
# beside its own two programs, and no option leaves them out.
NEEDLESS_PROGRAMS = ("start_monitor", "start_log_monitor", "start_api_server")

PRELOAD, PRESTART = "RAY_preload_python_modules", "RAY_prestart_worker_first_driver"
WORKER_READY = "tune_fairlora.execution.worker_ready"
READY_FOLDER = "TUNE_FAIRLORA_WORKERS_READY"  # environment variable: where pre-started workers say how far they are
BEGIN_SECONDS, READY_SECONDS = 60.0, 300.0  # until the first has begun, and until all are ready; a busy machine is slow
TRIAL_MODULES = ("trainables.trial.ray_trainable", "trainables.trial.trial")  # what a trial's process imports
GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # Nvidia's, AMD's, and in Windows's Linux


def worker_settings(cpus: float, gpus: float | str | None, concurrent: int) -> dict[str, str]:
    """Environment variables for the start of a local Ray whose trials take ``cpus`` and ``gpus`` each.

    Ray pre-starts a worker for each processor (``PRELOAD`` is among the keys) only if each becomes a trial's and there
    is no GPU: a process must not look for one before Ray has said which is its own.
    """
    processors = os.cpu_count() or 1
    has_gpu = (isinstance(gpus, float) and gpus > 0) or any(glob.glob(files) for files in GPU_FILES)
    if has_gpu or cpus != 1 or concurrent < processors:
        return {} if PRESTART in os.environ else {PRESTART: "0"}
    settings = {PRESTART: "1", PRELOAD: WORKER_READY}
    # Once Tune has reserved the processors for its trials, Ray would end the workers that still wait for theirs.
    settings["RAY_idle_worker_killing_time_threshold_ms"] = "600000"
    # Ray sets this in a trial's process only later, when its libraries are imported already.
    return settings if "OMP_NUM_THREADS" in os.environ else settings | {"OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def bare_ray() -> Iterator[None]:
    """Inside, ``ray.init`` starts no more programs than a search needs; not for several threads at once."""
    from ray._private.node import Node

    with contextlib.ExitStack() as restore:
        for name in NEEDLESS_PROGRAMS:
            restore.callback(setattr, Node, name, getattr(Node, name))
            setattr(Node, name, lambda *args, **options: None)
        yield


@contextlib.contextmanager
def shared_workers(local: bool) -> Iterator[None]:
    """Inside, Ray Tune asks for no environment of their own for its trials: Ray gives only those its idle workers.

    Tune's trials would have one variable that tells Lightning not to fork, which nothing here needs, and copies of this
    process's variables for Ray and Amazon's cloud, which the workers of a ``local`` Ray have inherited.
    """
    from ray.tune.execution import class_cache

    defaults, propagated = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    before = dict(defaults), set(propagated)
    defaults.clear()
    if local:
        propagated.clear()
    try:
        yield
    finally:
        defaults.update(before[0])
        propagated.update(before[1])


def import_meanwhile(*parts: Sequence[str]) -> threading.Event:
    """Import modules in a thread, as Ray's start is mostly waiting for other processes. The event is set once those of
    the first part are imported. An error shows where the module is used."""
    first_imported = threading.Event()

    def import_parts() -> None:
        for modules in parts:
            for module in modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            first_imported.set()

    if fast_start_enabled():
        threading.Thread(target=import_parts, name="import").start()
    else:
        first_imported.set()
    return first_imported
