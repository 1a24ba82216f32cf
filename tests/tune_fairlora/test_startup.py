"""What a search's start leaves out, and what its processes are given."""

import json
import os
import subprocess
import sys
import threading

import pytest

from tune_fairlora import cluster, startup

# A Ray as a search starts it; printed: which of its workers were there before any trial, and what a worker is given.
START = """
import json, os, time
from tune_fairlora import startup
startup.quiet_libraries()
import psutil, ray
from ray.tune.execution.class_cache import DEFAULT_ENV_VARS
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
time.sleep(5)
lines = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True) if p.name() != "raylet"]
idle = [line for line in lines if "ray::IDLE" in line or "default_worker" in line]
given = ray.remote(lambda: {k: os.environ.get(k) for k in startup.KEEP_MEMORY})
print(json.dumps({"idle": idle, "given": ray.get(given.remote()), "tune": DEFAULT_ENV_VARS}))
"""


@pytest.fixture(scope="module")
def started() -> dict:
    unset = {k: v for k, v in os.environ.items() if k not in startup.KEEP_MEMORY and not k.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=unset, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_ray_starts_no_process_that_no_trial_can_use(started):
    assert started["idle"] == []
    assert started["tune"]  # why they are of no use: Tune's actors want an environment of their own


def test_a_trials_process_keeps_its_memory(started):
    assert started["given"] == startup.KEEP_MEMORY


def test_what_a_user_has_set_stays(monkeypatch):
    name = next(iter(startup.KEEP_MEMORY))
    monkeypatch.setenv(name, "131072")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    startup.quiet_libraries()
    assert os.environ[name] == "131072"


def test_libraries_are_imported_meanwhile():
    """In a thread of its own; what cannot be imported shows where it is used."""
    sys.modules.pop("colorsys", None)
    cluster._import_meanwhile("colorsys", "no_such_module", "this.neither")
    for thread in threading.enumerate():
        if thread.name == "import":
            thread.join(30)
    assert "colorsys" in sys.modules and "no_such_module" not in sys.modules
