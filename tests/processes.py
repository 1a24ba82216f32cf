"""A process of the project's own code beside the test, waiting for what it does, and how a refusal is read."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PIECE_OF_WORK = "import numpy; sum(i * i for i in range(3_000_000))"  # a start of Python, files to be read, arithmetic
USUAL = 0.5  # its seconds on the quiet machine for which the limits in the tests are written
PACE = "TUNE_FAIRLORA_TESTS_PACE"


def patience(seconds: float) -> int:
    """A limit of ``seconds``, whole, longer where this machine is slower or has other work; measured once a session."""
    if PACE not in os.environ:  # which a session's workers inherit
        begin = time.monotonic()
        subprocess.run([sys.executable, "-c", PIECE_OF_WORK], check=True)
        os.environ[PACE] = str(max(1.0, (time.monotonic() - begin) / USUAL))
    return math.ceil(seconds * float(os.environ[PACE]))


def refusal(call: Callable[..., object], *args: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    return message


def started(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until ``condition`` holds; fails after ``seconds`` on a quiet machine."""
    end = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
