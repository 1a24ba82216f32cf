"""Imported by each process that Ray starts beforehand (``cluster.load_ahead``), once Ray knows it; says so by a file.

Trials must not be asked for before that: Ray would start further processes for them, on processors that have enough to
do with the first ones.
"""

import os
from pathlib import Path

FOLDER = "TUNE_FAIRLORA_REGISTERED"

if os.environ.get(FOLDER):
    Path(os.environ[FOLDER], f"process-{os.getpid()}").touch()
