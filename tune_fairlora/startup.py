"""How a command prepares its own process and ends it. Imports the standard library alone.

Importing a package of ours changes nothing in the user's process; whatever a command does to its own is done here.
"""

import atexit
import contextlib
import functools
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()  # close to the process's own start; a time budget counts from here
HOME = Path(__file__).resolve().parent.parent  # of our packages: the clone, or site-packages
OTHER_PACKAGES = ("trainables", "search_spaces", "analysis")
# For the C library's malloc, in the processes that Ray starts: what a step frees stays with the process, for the next
# step. Else it goes back to the kernel and is asked for again: 20,000 page faults a step in full fine-tuning.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def run_command(*words: str, module: str = "cli") -> NoReturn:
    """Run ``main`` of ``tune_fairlora.<module>`` on ``words`` and the command line; end the process with its status.

    A command's file calls this before it imports anything: ``python -m`` has put the current folder first on the import
    path, and only ``prepare_process`` takes it off.
    """
    prepare_process()
    try:
        require_own_packages()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(2)
    try:
        status = importlib.import_module(f"tune_fairlora.{module}").main([*words, *sys.argv[1:]])
    except SystemExit as end:  # --help and --version
        status = int(end.code or 0)
    leave(status)


def prepare_process() -> None:
    """Make the process fit for a command: three standard streams, no modules from the current folder, quiet libraries.

    For processes that run a command and nothing else.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed by the caller (``>&-``): the next file would take its number, and what libraries print
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    # ``python -m`` has put the current folder first on the import path, where a user's own analysis.py or trainables/
    # would hide ours. It stays where our packages lie in it.
    here = Path.cwd().resolve()
    if here != HOME and Path(sys.path[0]).resolve() == here:
        del sys.path[0]
    quiet_libraries()


@functools.cache
def require_own_packages() -> None:
    """Raise ImportError, in one line, where a file of the user's is imported in place of one of our packages."""
    for name in OTHER_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue  # not installed at all, as Python itself says
        place = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or name)).resolve()
        if place != HOME / name:
            raise ImportError(
                f"{place} hides the package {name} of tune-fairlora: rename it, or take {place.parent} off the import "
                "path (PYTHONPATH, or the folder of the script)"
            )


def fast_start_enabled() -> bool:
    """Whether private parts of other libraries may make start and end faster (``execution/fast_start.py``)."""
    return os.environ.get("TUNE_FAIRLORA_FAST_START") != "0"


def leave(status: int) -> NoReturn:
    """End the process at once: Python's own end would free each object of torch, Ray and MLflow, which takes 2 to 3 s.

    Everything that matters is written by now. What libraries have registered for the end is called, unless MLflow's
    thread is still at work: it may be inside torch or a database's library, which would abort.
    """
    if not fast_start_enabled():
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a reader that has gone away
            stream.flush()
    if not any(thread.name == "mlflow" and thread.is_alive() for thread in threading.enumerate()):
        atexit._run_exitfuncs()
    os._exit(status)


def quiet_libraries() -> None:
    """Set what Ray, MLflow, their kin and their processes read from the environment when they start."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
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
    """Put ``settings`` into the environment of this process, and of those that are started inside the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
