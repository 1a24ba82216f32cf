"""Imported by each worker that Ray pre-starts (``fast_start.worker_settings``): it imports what a trial needs.

It makes a file when it begins, and renames it when it is ready: then the file says what failed, if anything did.

Whatever happens, the worker stays: Ray would start one that ended again and again.
"""

import contextlib
import importlib
import os
from pathlib import Path

from tune_fairlora.execution.fast_start import READY_FOLDER, TRIAL_MODULES

if os.environ.get(READY_FOLDER):
    problem, path = "", Path(os.environ[READY_FOLDER], f"{os.getpid()}.begun")
    with contextlib.suppress(OSError):  # a worker that is started later, when nobody waits
        path.touch()
    try:
        if not importlib.import_module("trainables.trial.lean_peft").import_peft():
            problem = "peft could not be imported without transformers"
        for module in TRIAL_MODULES:
            importlib.import_module(module)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    with contextlib.suppress(OSError):
        path.write_text(problem)
        path.rename(path.with_suffix(".ready"))  # whole from the first moment on
