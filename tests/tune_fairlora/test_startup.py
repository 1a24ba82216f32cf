"""What a search's start leaves out, and what its processes are given."""

import argparse
import json
import os
import subprocess
import sys
import threading

import pytest

from tests.processes import patience
from trainables.config import ConfigError
from tune_fairlora import startup
from tune_fairlora.execution import fast_start, ray_cluster

# A Ray as a search starts it; printed: which of its workers were there before any trial, and what a worker is given.
START = """
import json, os, sys, time
from tune_fairlora import startup
from tune_fairlora.execution import fast_start
startup.quiet_libraries()
os.environ |= fast_start.worker_settings(2.0, None, 9)
import psutil, ray
from ray.tune.execution.class_cache import DEFAULT_ENV_VARS
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
time.sleep(float(sys.argv[1]))
lines = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True) if p.name() != "raylet"]
idle = [line for line in lines if "ray::IDLE" in line or "default_worker" in line]
given = ray.remote(lambda: {k: os.environ.get(k) for k in startup.KEEP_MEMORY})
print(json.dumps({"idle": idle, "given": ray.get(given.remote()), "tune": DEFAULT_ENV_VARS}))
"""


@pytest.fixture(scope="module")
def started() -> dict:
    unset = {k: v for k, v in os.environ.items() if k not in startup.KEEP_MEMORY and not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", START, str(patience(5))],
        capture_output=True,
        text=True,
        env=unset,
        timeout=patience(200),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ray_starts_no_process_of_itself(started):
    assert started["idle"] == []
    assert started["tune"]  # why they would be of no use: Tune's actors want an environment of their own


@pytest.mark.slow
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
    for name in ("colorsys", "netrc"):
        sys.modules.pop(name, None)
    first = fast_start.import_meanwhile(["no_such_module", "this.neither", "colorsys"], ["netrc"])
    assert first.wait(patience(30)) and "colorsys" in sys.modules and "no_such_module" not in sys.modules
    for thread in threading.enumerate():
        if thread.name == "import":
            thread.join(patience(30))
    assert "netrc" in sys.modules


NEEDLESS = ("dashboard/dashboard.py", "monitor.py", "log_monitor.py")
# What a search does of Ray, and then trials of Tune's that tell their process; printed: which processes were there.
LOADED = (
    f"NEEDLESS = {NEEDLESS}"
    + """
import argparse, contextlib, json, os, sys, time
from tune_fairlora import startup
startup.quiet_libraries()
from tune_fairlora.execution.ray_cluster import MODEL_MODULES, TUNE_MODULES, RayCluster
from tune_fairlora.execution.signals import Signals
options = {"address": "local", "cpus_per_trial": 1.0, "gpus_per_trial": None, "max_concurrent": None}
with RayCluster() as cluster:
    cluster.start(argparse.Namespace(**options), 99, sys.argv[2] == "models")
    cluster.await_workers(Signals())
    asked = time.time()
    planned = [name in sys.modules for name in (*TUNE_MODULES, *MODEL_MODULES, "torch")]
    import psutil, ray
    from ray import tune

    def lines(processes):
        found = []
        for process in processes:
            with contextlib.suppress(psutil.Error):  # the other trial's may be ending
                found.append(" ".join(process.cmdline()))
        return found

    before = [p.pid for p in psutil.Process().children(recursive=True)]
    programs = " ".join(lines(psutil.Process().children(recursive=True)))

    class Process(tune.Trainable):
        def step(self):
            names = {"threads": "OMP_NUM_THREADS", "key": "AWS_SESSION_TOKEN"}
            every = lines(psutil.Process().parent().children())
            workers = [line for line in every if ("ray::" in line and "Agent" not in line) or "default_worker" in line]
            found = {key: os.environ[name] for key, name in names.items()}
            found |= {"process": os.getpid(), "workers": len(workers), "waited": time.time() - asked}
            found |= {"lean": "peft" in sys.modules and "transformers" not in sys.modules}
            return found | {"loaded": "trainables.trial.trial" in sys.modules, "done": True}

        def save_checkpoint(self, folder):
            return {}

    config = tune.RunConfig(storage_path=sys.argv[1], verbose=0)
    tuned = tune.TuneConfig(num_samples=cluster.at_once)
    results = tune.Tuner(tune.with_resources(Process, {"cpu": 1}), tune_config=tuned, run_config=config).fit()
    names = ("process", "workers", "waited", "threads", "loaded", "key", "lean")
    took = [{name: r.metrics[name] for name in names} for r in results]
left = [name for name in os.environ if "prestart" in name or "preload" in name]
print(json.dumps({"planned": planned, "before": before, "took": took, "left": left, "up": ray.is_initialized(),
                  "programs": [name for name in ("raylet", *NEEDLESS) if name in programs]}))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["models", "no models"])
def test_trials_take_the_processes_that_ray_has_started_beforehand(tmp_path, kind):
    """They have loaded their libraries by then. Ray Tune would give its trials an environment of their own, and so new
    processes: an upgrade that changes how would cost each search 8 seconds for nothing."""
    cloud = os.environ | {"AWS_SESSION_TOKEN": "made up"}  # which Tune would put into the trials' environment
    done = subprocess.run(
        [sys.executable, "-c", LOADED, tmp_path, kind], capture_output=True, text=True, timeout=patience(200), env=cloud
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planned"] == [True] * 2 + [kind == "models"] * 3 and not found["up"]
    assert found["programs"] == ["raylet"]  # an upgrade that starts them otherwise would wait for them
    assert found["left"] == []
    assert len(found["took"]) == os.cpu_count() and {each["process"] for each in found["took"]} <= {*found["before"]}
    assert all(1 <= each["workers"] <= os.cpu_count() for each in found["took"])  # none was started for nothing
    assert all(each["waited"] < patience(4) for each in found["took"])  # for Tune itself; libraries take 6 and more
    assert all(each["loaded"] and each["lean"] for each in found["took"])
    assert all(each["threads"] == "1" and each["key"] == "made up" for each in found["took"])


@pytest.mark.parametrize(
    ("cpus", "gpus", "concurrent", "files"),
    [(1.0, 0.5, 9, ()), (2.0, None, 9, ()), (0.5, None, 9, ()), (1.0, None, 1, ()), (1.0, None, 9, ("/dev/null",))],
)
def test_no_worker_is_started_that_would_not_become_a_trials(monkeypatch, cpus, gpus, concurrent, files):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in ("OMP_NUM_THREADS", fast_start.PRESTART):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fast_start, "GPU_FILES", ())
    for none in (None, 0.0, "auto"):
        ahead = fast_start.worker_settings(1.0, none, 9)
        assert ahead[fast_start.PRELOAD] == "tune_fairlora.execution.worker_ready" and ahead["OMP_NUM_THREADS"] == "1"
        assert ahead[fast_start.PRESTART] == "1"
    monkeypatch.setattr(fast_start, "GPU_FILES", files)
    assert fast_start.worker_settings(cpus, gpus, concurrent) == {fast_start.PRESTART: "0"}
    monkeypatch.setenv(fast_start.PRESTART, "1")  # what a user has set stays
    assert fast_start.worker_settings(cpus, gpus, concurrent) == {}


@pytest.mark.slow
def test_what_ray_refuses_is_one_line_and_leaves_no_ray():
    """A node that holds no trial is known once Ray is up; Ray is ended then."""
    import ray

    wide = argparse.Namespace(address="local", cpus_per_trial=4096.0, gpus_per_trial=None, max_concurrent=None)
    line = "--cpus-per-trial 4096 fits on no node: this Ray's largest node has"
    with pytest.raises(ConfigError, match=line), ray_cluster.RayCluster() as refused:
        refused.start(wide, 1, False)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "argv",
    [
        ["--space", "digit"],
        ["--space", "digits", "--set", "rank=-1"],
        ["--space", "folder_vit_tiny", "--data", "nowhere"],
        ["--space", "folder_vit_tiny", "--data", ".", "--image-size", "33"],
        ["--space", "digits", "--weights", "none.safetensors"],
        ["--space", "digits", "--tracking-uri", "mlruns"],
        ["--resume", "nothing"],
    ],
)
def test_a_slip_is_answered_before_libraries_are_imported(argv):
    code = f"""
import sys
from tune_fairlora import cli
assert cli.main(["search", *{argv!r}]) == 2
heavy = {{"torch", "ray", "timm", "peft", "mlflow", "pandas", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0, done.stderr
