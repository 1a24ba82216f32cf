"""Imports run one way, and the core works without ray, mlflow and optuna."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import patience

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("trainables", "search_spaces", "analysis", "tune_fairlora")
ALLOWED = {
    "trainables": {"trainables"},
    "search_spaces": {"search_spaces", "trainables"},
    "analysis": {"analysis", "trainables.config", "trainables.files", "trainables.logits", "trainables.metrics"},
    "tune_fairlora": set(PACKAGES),
}
# Inside a package too: the modules and folders of the list import what stands before them, and their own.
ORDER = {
    "trainables": "config metrics seeds files logits data prepare models training trial export",
    "search_spaces": "space digits folder fairlora_paper ding_paper",
    "tune_fairlora": "startup record algorithms reporting tracking cli plan execution api "
    "search prepare confirm export fetch predict report ui __main__",
    "analysis": "record_format labels results predictions pareto estimates chance bounds table configurations claims "
    "paired confirmation pick figures tables html",
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
    | {f"tune_fairlora/algorithms/{n}.py" for n in ("searcher", "study")}
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


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", ORDER)
def test_imports_inside_a_package_run_one_way(package):
    order, modules = ORDER[package].split(), {module_of(path): path for path in sources(package)}
    graph = {name: (imports(path) & modules.keys()) - {name, package} for name, path in modules.items()}
    for name, needed in graph.items():
        for other in needed if name != package else ():
            above, below = (order.index(each.split(".")[1]) for each in (name, other))
            assert below <= above, f"{name} imports {other}"
    empty = {name for name, path in modules.items() if not path.read_text().strip()}
    list(
        graphlib.TopologicalSorter({n: graph[n] - empty for n in graph}).static_order()
    )  # raises where there is a circle


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=patience(200))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.usefixtures("one_thread")
def test_the_core_trains_and_evaluates_without_ray_mlflow_and_optuna(capsys):
    """To the very numbers that it reaches with them: the same code, on the same machine."""
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
    found = run_without({"ray", "mlflow", "optuna"}, code).split()
    exec(code, {})
    assert found == capsys.readouterr().out.split()
    assert float(found[1]) < float(found[0])  # by far more than rounding


def test_config_needs_the_standard_library_alone_and_metrics_numpy():
    heavy = {"torch", "timm", "peft", "ray", "mlflow", "optuna", "pandas", "sklearn", "pyarrow", "scipy"}
    assert run_without(heavy | {"numpy"}, "import trainables.config; print('ok')") == "ok"
    assert run_without(heavy, "import trainables.metrics; print('ok')") == "ok"


def test_the_analysis_needs_neither_ray_nor_mlflow_nor_torch():
    code = f"import {', '.join(map(module_of, sources('analysis')))}; print('ok')"
    assert run_without({"torch", "ray", "mlflow", "optuna"}, code) == "ok"


def test_importing_the_analysis_leaves_matplotlib_as_it_was():
    code = f"""
import matplotlib, sys
before = str(dict.items(matplotlib.rcParams))  # read otherwise, they import pyplot
import {", ".join(map(module_of, sources("analysis")))}
print(str(dict.items(matplotlib.rcParams)) == before, "matplotlib.pyplot" in sys.modules)
"""
    assert run_without(set(), code) == "True False"
