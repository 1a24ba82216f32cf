"""Whole searches on a Ray that lacks what makes a start fast: each starts once more, plainly, and says so in one line.

Also here, as it needs the same searches: every epoch comes through one door, once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A search that is told each result of a trial and ends trial 1 after its first epoch; the process prints the results.
SEARCH = """
import json, sys
from tune_fairlora import startup
startup.quiet_libraries()
from tune_fairlora import cli
from tune_fairlora.execution import fast_start
from tune_fairlora.execution.controller import SearchController

results, result = [], SearchController.result
def counted(self, number, report):
    results.append([number, report["epoch"]])
    return result(self, number, report) and number != 1
SearchController.result = counted
{damage}
status = cli.main(["search", *sys.argv[1:]])
print(json.dumps([status, results]))
"""
# Each order of the trials gives the same ones.
OPTIONS = ["--space=digits", "--epochs=2", "--trials=4", "--sampler=random", "--scheduler=none", "--name=one"]
OPTIONS += ["--set=batch_size=128"]

# Rays of other versions, made of the source of this one.
REWRITE = """
import inspect, textwrap
def rewrite(function, old, new):
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source
    space = {}
    exec(source.replace(old, new), function.__globals__, space)
    return space[function.__name__]
"""
THREE_VALUES = (
    REWRITE
    + """
from ray._private.node import Node
server = Node.start_api_server
Node.start_api_server = lambda self, **options: (server(self, **options), "url", "process")
Node.start_head_processes = rewrite(
    Node.start_head_processes, "self.start_api_server(", "_, url, process = self.start_api_server("
)
"""
)
NO_METHOD = (
    REWRITE
    + """
from ray._private.node import Node
Node.start_scaling_monitor = Node.start_monitor
del Node.start_monitor
Node.start_head_processes = rewrite(Node.start_head_processes, "self.start_monitor(", "self.start_scaling_monitor(")
"""
)
NO_DEFAULTS = (
    REWRITE
    + """
from ray.tune.execution import class_cache
cache = class_cache._ActorClassCache
class_cache.TRIAL_ENV_VARS = class_cache.DEFAULT_ENV_VARS
cache.get = rewrite(cache.get, "DEFAULT_ENV_VARS", "TRIAL_ENV_VARS")
del class_cache.DEFAULT_ENV_VARS
"""
)
NO_PRELOAD = "fast_start.PRELOAD, fast_start.BEGIN_SECONDS = 'RAY_no_such_setting', 3.0"
OFF = """
def unused(*args): raise AssertionError("the switch is off")
fast_start.bare_ray = fast_start.shared_workers = fast_start.worker_settings = unused
"""
# In each worker, where Python itself imports it: peft refuses to be imported with stand-ins.
OTHER_PEFT = """
import sys
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name == "peft":
            sys.meta_path.remove(self)
            raise ImportError
sys.meta_path.insert(0, Refuses())
"""


def search(folder: Path, damage: str = "", **environment: str) -> tuple[Path, list[str]]:
    """Run the search in ``folder``; its own folder, and what log.txt says of the fast start."""
    program = [sys.executable, "-c", SEARCH.format(damage=damage), *OPTIONS]
    child = subprocess.run(
        program, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=800
    )
    assert child.returncode == 0, child.stdout + child.stderr
    status, results = json.loads(child.stdout.splitlines()[-1])
    own = folder / "runs/one"
    log = (own / "log.txt").read_text()
    assert status == 0, child.stdout + log
    # One door: every epoch of every trial once, the last ones and that of the trial that was ended early, too.
    assert sorted(results) == [[0, 1], [0, 2], [1, 1], [2, 1], [2, 2], [3, 1], [3, 2]]
    return own, [line for line in log.splitlines() if "fast start" in line]


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> Path:
    folder, lines = search(tmp_path_factory.mktemp("fast"))
    assert lines == []
    return folder


def test_every_epoch_comes_through_one_door_once(fast):
    """``search`` has counted them at the door; this is what became of them."""
    epochs = pd.read_parquet(fast / "epochs.parquet")
    assert epochs.groupby("number")["epoch"].apply(list).to_dict() == {0: [1, 2], 1: [1], 2: [1, 2], 3: [1, 2]}
    trials = pd.read_parquet(fast / "trials.parquet")
    assert trials["status"].tolist() == ["complete", "stopped", "complete", "complete"]


def test_switched_off_a_search_gives_the_same_results(fast, tmp_path):
    plain, lines = search(tmp_path, OFF, TUNE_FAIRLORA_FAST_START="0")
    assert lines == []
    for name in ("trials.parquet", "epochs.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in (fast, plain)]
        tables = [t.drop(columns=["seconds", "device", "mlflow_run_id"], errors="ignore") for t in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (THREE_VALUES, "cannot unpack non-iterable NoneType object"),
        (NO_METHOD, "type object 'Node' has no attribute 'start_monitor'"),
        (NO_DEFAULTS, "module 'ray.tune.execution.class_cache' has no attribute 'DEFAULT_ENV_VARS'"),
        (NO_PRELOAD, "no worker was ready in 3 s"),
    ],
)
def test_another_ray_starts_once_more_plainly(tmp_path, damage, reason):
    _, lines = search(tmp_path, damage)
    assert lines == [f"fast start failed ({reason}): Ray starts once more, plainly"]


def test_a_worker_that_fails_beforehand_trains_all_the_same(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OTHER_PEFT)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    _, lines = search(tmp_path, PYTHONPATH=path)
    assert lines == [
        "fast start failed in a worker (peft could not be imported without transformers): trials import the rest"
    ]


def test_a_worker_stays_whatever_it_cannot_import(tmp_path):
    """Ray would start one that ended again and again."""
    code = "from tune_fairlora.execution import fast_start; fast_start.TRIAL_MODULES = ('no_such',)\n"
    code += "from trainables.trial import lean_peft; lean_peft.import_peft = lambda: True\n"
    code += "import tune_fairlora.execution.worker_ready; print('here')"
    environment = os.environ | {"TUNE_FAIRLORA_WORKERS_READY": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert child.stdout == "here\n", child.stderr
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".ready" and file.read_text() == "ModuleNotFoundError: No module named 'no_such'"
