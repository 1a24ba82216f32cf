"""What must happen before our packages are imported. Imports nothing but the standard library."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()  # of the process, as good as; a time budget counts from here
# For the C library's malloc, in the processes that Ray starts: what a step frees stays with the process, for the next
# step. Else it goes back to the kernel and is asked for again: 20,000 page faults a step in full fine-tuning.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def prepare_process() -> None:
    """What a command does to its own process, before any import of ours but this one."""
    hide_user_folder()
    quiet_libraries()


def hide_user_folder() -> None:
    """Take the current folder off the import path, unless it is where this package itself lies.

    ``python -m`` puts it first. A user's own ``analysis.py`` or ``trainables/`` there would hide ours.
    """
    here = Path.cwd().resolve()
    if here != Path(__file__).resolve().parent.parent:
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]


def leave(status: int) -> NoReturn:
    """End the process, without Python's own end, which would free each object of torch, Ray and MLflow: 2 to 3 s.

    All that matters is written by now; what libraries have registered for the end is called. Not so where MLflow's
    thread was not waited for any longer: it may be inside torch or a database's library, and that would abort.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a reader that has gone away
            stream.flush()
    if not any(thread.name == "mlflow" and thread.is_alive() for thread in threading.enumerate()):
        atexit._run_exitfuncs()
    os._exit(status)


def quiet_libraries() -> None:
    """Settings that Ray, MLflow, their kin and their processes read from the environment when they start."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ray would start a process for each CPU beforehand; only where each becomes a trial's is that of use
        # (cluster.load_ahead).
        "RAY_prestart_worker_first_driver": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our record replaces Ray's csv, json and tensorboard files
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ray's ends the search with exit status 0
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Ray's snapshots are never read
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **KEEP_MEMORY,
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """``settings`` in this process's environment, and in that of processes which are started inside."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
