"""Imports run one way, and the core works without ray, mlflow and optuna."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("trainables", "search_spaces", "analysis", "tune_fairlora")
ALLOWED = {
    "trainables": {"trainables"},
    "search_spaces": {"search_spaces", "trainables"},
    "analysis": {"analysis", "trainables.config", "trainables.metrics"},
    "tune_fairlora": set(PACKAGES),
}
# A library that only the files named may import, wherever the import stands in the file.
ONLY_IN = {
    "ray": {"trainables/trial/ray_trainable.py", "tune_fairlora/algorithms/searcher.py"}
    | {
        f"tune_fairlora/execution/{n}.py"
        for n in ("ray_cluster", "ray_executor", "fast_start", "gpu_sharing", "runner")
    },
    "mlflow": {"tune_fairlora/tracking/client.py", "tune_fairlora/tracking/models.py"},
    "optuna": {f"search_spaces/{n}.py" for n in ("space", "digits", "folder", "fairlora_paper", "ding_paper")}
    | {f"tune_fairlora/algorithms/{n}.py" for n in ("searcher", "study", "samplers")}
    | {"tune_fairlora/plan/describe.py"},
    "torch": {f"tune_fairlora/plan/{n}.py" for n in ("checks", "describe")},  # besides the core
    "open_clip": {"trainables/models/clip.py", "trainables/models/zeroshot.py"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_leftwards_only(package):
    for path in sources(package):
        ours = {name for name in imports(path) if name.partition(".")[0] in PACKAGES}
        wrong = {n for n in ours if not any(n == a or n.startswith(a + ".") for a in ALLOWED[package])}
        wrong -= {"trainables"} if package == "analysis" else set()  # `from trainables import metrics`
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_files(library):
    for package in PACKAGES:
        if library == "torch" and package == "trainables":
            continue
        for path in sources(package):
            if library in {name.partition(".")[0] for name in imports(path)}:
                assert str(path.relative_to(ROOT)) in ONLY_IN[library], f"{path} imports {library}"


BLOCK = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {blocked} else find(name, path, target)
machinery.PathFinder.find_spec = find_spec  # as if it were not installed: some libraries only ask whether it is
"""


def run_without(blocked: set[str], code: str) -> str:
    """The last line that ``code`` prints in a process in which the ``blocked`` libraries cannot be imported."""
    program = BLOCK.format(blocked=blocked) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_core_trains_and_evaluates_without_ray_mlflow_and_optuna():
    code = """
import torch
torch.set_num_threads(1)
from trainables.data.batches import open_data
from trainables.models import create
from trainables.prepare import datasets
from trainables.config import TrainConfig
from trainables.training.fit import fit
store = datasets.prepare("digits", None, 16)
weights = str(create.weights_file("vit_nano", None))
config = TrainConfig(method="fairlora", epochs=2, lr=5e-3, batch_size=64, flip=False, crop=1.0)
epochs = list(fit(config, open_data(store), weights))
print(*(e.metrics["train_loss"] for e in epochs), epochs[-1].metrics["val_accuracy"])
"""
    first, second, accuracy = map(float, run_without({"ray", "mlflow", "optuna"}, code).split())
    assert second < first and accuracy > 0.6


def test_config_needs_the_standard_library_alone_and_metrics_numpy():
    heavy = {"torch", "timm", "peft", "ray", "mlflow", "optuna", "pandas", "sklearn", "pyarrow", "scipy"}
    assert run_without(heavy | {"numpy"}, "import trainables.config; print('ok')") == "ok"
    assert run_without(heavy, "import trainables.metrics; print('ok')") == "ok"


def test_the_analysis_needs_neither_ray_nor_mlflow_nor_torch():
    code = "import analysis.pareto, analysis.results, analysis.figures.front; print('ok')"
    assert run_without({"torch", "ray", "mlflow", "optuna"}, code) == "ok"
