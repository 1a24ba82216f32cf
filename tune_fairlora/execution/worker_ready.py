"""Imported last by each process that Ray starts beforehand (``cluster.load_ahead``): its libraries are loaded, and a
file says so.

Trials are asked for once all are. Where one process is ready a second before the other, a short first trial would end
before the second has begun, and Ray Tune would hand the first process on to it, call the second's start off, and ask
for another process: again and again, one trial at a time.
"""

import contextlib
import os
from pathlib import Path

FOLDER = "TUNE_FAIRLORA_LOADED"

if os.environ.get(FOLDER):
    with contextlib.suppress(OSError):  # a process that is started later, when nobody waits
        Path(os.environ[FOLDER], f"process-{os.getpid()}").touch()
