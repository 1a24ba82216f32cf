"""A process of the project's own code beside the test, waiting for what it does, and how a refusal is read."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def refusal(call, *args, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    return message


def started(code: str, *args) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
