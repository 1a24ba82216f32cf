"""The slow proofs, each a real search: repeatable, beside a user's own files, sharing one GPU, on photographs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from analysis import results
from analysis.claims import claims
from analysis.pareto import front
from tests.processes import patience
from trainables import logits
from trainables.models.backbones import fingerprint
from tune_fairlora.record.event_log import read_events

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
MODULE = ["-m", "tune_fairlora.search"]


def run(argv: list, folder: Path, timeout: int = 900, **env: str) -> str:
    """The output of a command that must succeed."""
    environment = {**os.environ, **env}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience(timeout))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "runs" / name / "trials.parquet")


def test_the_same_seed_twice_gives_identical_trials(tmp_path):
    command = [sys.executable, *MODULE, "--space", "digits", "--trials", "12", "--epochs", "2", "--max-concurrent", "1"]
    tables = []
    for name in ("first", "second"):
        run([*command, "--seed", "7", "--name", name], tmp_path)
        tables.append(table(tmp_path, name).drop(columns=["seconds", "mlflow_run_id"]))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_the_demo_finds_a_front_with_all_four_methods_tried(demo):
    trials = table(demo, "demo")
    assert len(trials) == 24 and set(trials["method"]) == {"lora", "fairlora", "fft", "fairfft"}
    again = trials[trials["repeats"].notna()]
    assert len(again) == 6 and again["number"].tolist() == list(range(18, 24))  # a quarter, at the end
    rows = claims(results.read(demo / "runs/demo")).rows
    able = rows[rows["config_id"].isin(again.loc[again["status"] == "complete", "config_id"])]
    members = able[front(able[["val_accuracy_claimed", "val_delta_f1_claimed"]].to_numpy() * [-1, 1])]
    assert set(trials.loc[trials["on_front"], "config_id"]) == set(members["config_id"]) and len(members)
    client = mlflow.MlflowClient(f"sqlite:///{demo / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(runs) == 25 and len(children) == 24 and {r.info.status for r in runs} == {"FINISHED"}


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory) -> Path:
    """The Python of an environment in which the project is installed from a wheel, over this one's libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    run([sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source)], folder)
    run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], folder)
    python = folder / "env/bin/python"
    wheel = str(next(folder.glob("*.whl")))
    run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", str(python), wheel], folder)
    packages = next((folder / "env/lib").iterdir()) / "site-packages"
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    # A path of the libraries alone: the .pth files beside them, one of which points at this clone, are not read.
    (packages / "libraries.pth").write_text(libraries + "\n")
    return python


def test_a_users_own_analysis_and_trainables_do_not_hide_ours(tmp_path, wheel_python):
    (tmp_path / "analysis.py").write_text("raise RuntimeError('the user\\'s analysis was imported')\n")
    for name in ("trainables", "search_spaces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user\\'s {name} was imported')\n")
    (tmp_path / "metrics.py").write_text("raise RuntimeError('the user\\'s metrics was imported')\n")
    argv = [str(wheel_python), *MODULE, "--space", "digits", "--trials", "2", "--epochs", "1", "--name", "own"]
    run(argv, tmp_path)
    assert table(tmp_path, "own")["status"].tolist() == ["complete", "complete"]


@pytest.fixture
def ray_with_one_gpu(tmp_path):
    """A Ray of its own with one logical GPU and two CPUs; yields its address."""
    ray = str(Path(sys.executable).parent / "ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the path of a Unix socket ends after 107 bytes
    start = ["start", "--head", f"--port={port}", "--num-gpus=1", "--num-cpus=2", "--include-dashboard=false"]
    # Without tokens: a new machine has none, and an old one's would be left to chance.
    run([ray, *start, "--temp-dir", folder, "--disable-usage-stats"], tmp_path, RAY_AUTH_MODE="disabled")
    yield f"127.0.0.1:{port}"
    for pid in _pids(folder):
        os.kill(pid, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


def _pids(needle: str) -> list[int]:
    """The processes whose command line names ``needle``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_four_trials_share_one_gpu_and_each_sees_it(tmp_path, ray_with_one_gpu):
    argv = [sys.executable, *MODULE, "--space", "digits", "--trials", "4", "--epochs", "4", "--name", "quarter"]
    options = ["--gpus-per-trial", "0.25", "--cpus-per-trial", "0.5", "--address", ray_with_one_gpu]
    run([*argv, *options], tmp_path, RAY_AUTH_MODE="disabled")
    trials = table(tmp_path, "quarter")
    assert (trials["status"] == "complete").all()
    assert trials["device"].str.endswith("gpu=0").all()
    events = read_events(tmp_path / "runs" / "quarter")
    assert len({e["pid"] for e in events if e["event"] == "epoch"}) == 4
    assert _most_at_once(events) == 4


def test_a_gpu_that_torch_cannot_use_is_told_in_one_line(tmp_path, ray_with_one_gpu):
    argv = ["--space", "digits", "--gpus-per-trial", "auto", "--address", ray_with_one_gpu, "--name", "auto"]
    done = subprocess.run(
        [sys.executable, *MODULE, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=patience(300),
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 2 and not (tmp_path / "runs" / "auto").exists()
    line = "--gpus-per-trial auto needs a GPU that torch can use, but Ray's is none: say how many, --gpus-per-trial 1"
    assert done.stderr.splitlines() == [f"error: {line}"]


def _most_at_once(events: list[dict]) -> int:
    """The largest number of trials between their first epoch's report and their end."""
    seen, ended, most = set(), set(), 0
    for event in events:
        if event["event"] == "epoch":
            seen.add(event["number"])
        elif event["event"] == "end":
            ended.add(event["number"])
        most = max(most, len(seen - ended))
    return most


def test_photographs_with_a_pretrained_backbone(tmp_path, signdigits, vit_tiny_weights):
    options = ["--data", signdigits, "--weights", vit_tiny_weights, "--image-size", "64"]
    argv = ["--space", "folder_vit_tiny", *options, "--trials", "2", "--epochs", "2", "--name", "photos"]
    run([sys.executable, *MODULE, *map(str, argv)], tmp_path)
    trials = table(tmp_path, "photos")
    settings = json.loads((tmp_path / "runs/photos/search.json").read_text())
    assert settings["weights"] == fingerprint(vit_tiny_weights)
    assert len(set(logits.images(tmp_path / "runs/photos")["subject"])) == 44
    assert (trials["status"] == "complete").all()  # and so their mean recall is clearly above a guess's
    assert (trials["val_mean_recall"] > settings["collapse_floor"]).all()
    assert {"val_group_accuracy[flash_vignette]", "val_group_accuracy[plain_grey]"} <= set(trials.columns)
