"""README and docs stay true: what they name exists, every link resolves, and every command and example that needs no
data of one's own runs."""

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search_spaces.space import from_file
from tests.processes import patience
from trainables.config import METHODS
from trainables.data.store import Store
from trainables.metrics import METRICS
from trainables.prepare import datasets

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
FOLDERS = "trainables|search_spaces|analysis|tune_fairlora|tests|docs"
# Commands that no test runs as they stand, and why.
NOT_RUN = {
    r"make |bash tests/|OMP_NUM_THREADS|\.venv/bin/ruff|\.ci/run": "tests and set-up themselves",
    r"python (-m )?tests[./]benchmarks": "measurements of many minutes",
    r"tune-fairlora ui": "serves until Ctrl-C: test_ui, test_browser",
    r"tune-fairlora (prepare|search) .*(geode|waterbirds|utkface|signdigits)": "data of one's own",
}
# What stands for the reader's own names in a command, and what keeps it short.
OWN = {
    "NAME": "demo",
    "--trials 48": "--trials 26",
    "runs/demo/exports/0017": "model-17",
    "--trial 17": "--pick accuracy --out model-17",
    "photo.jpg": "photos/0.png",
}
OWN |= {"photos/0001.jpg": "photos/0.png", "--tracking-uri URI": "--tracking-uri sqlite:///mlflow.db"}
SHORTER = {
    "folder_vit_tiny": "--set backbone=vit_nano --image-size 16 --trials 2 --epochs 2",
    "space digits": "--trials 2",
    "--config": "--trials 2",
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def commands(text: str) -> list[str]:
    """The commands of the page's shell blocks, comments left out."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    plain = (re.sub(r"\s+#.*$", "", line).strip() for line in lines)
    return [" ".join(line.split()) for line in plain if line and not line.startswith("#")]


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


def anchors(text: str) -> set[str]:
    """The headings' anchors, as forges make them."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short_and_links_every_page():
    assert len(TEXT["README.md"].splitlines()) <= 150
    for page in TEXT:
        assert page == "README.md" or f"]({page}" in TEXT["README.md"], page


@pytest.mark.parametrize("page", TEXT)
def test_every_link_and_path_exists(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXT[page]):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.-]*\w)", TEXT[page]):
        assert (ROOT / path).exists() or (ROOT / path).with_suffix(".py").exists(), path
    assert "../shared" not in TEXT[page]
    assert not re.findall(r"^[A-Z]{4,}$", TEXT[page], flags=re.M), "a place that waits for its text"


@pytest.mark.parametrize("page", TEXT)
def test_every_module_and_option_exists(page):
    for module in re.findall(r"python -m ([\w.]+\w)", TEXT[page]):
        assert importlib.util.find_spec(module), module
    inline = re.findall(r"`((?:tune-fairlora|python -m tune_fairlora\.)[^`]*)`", TEXT[page])
    for command in commands(TEXT[page]) + inline:
        name = re.match(r"(?:tune-fairlora |python -m tune_fairlora\.)([a-z]+)", command)
        if name:
            parser = importlib.import_module(f"tune_fairlora.{name[1]}").parser()
            known = {option for action in parser._actions for option in action.option_strings}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", command)) <= known, command


def test_every_metric_stands_in_its_table_with_its_formula():
    for name, metric in METRICS.items():
        arrow = {"maximize": "up", "minimize": "down"}[metric.direction]
        assert f"| `{name}` | {arrow} | {metric.formula.replace('|', chr(92) + '|')} |" in TEXT["docs/metrics.md"]


def test_every_method_stands_in_its_table():
    for name, method in METHODS.items():
        assert f"| `{name}` |" in TEXT["docs/methods.md"]
        assert all(f"`{hyperparameter}`" in TEXT["docs/methods.md"] for hyperparameter in method.hyperparameters)


def test_its_space_is_a_space(tmp_path):
    code = next(block for block in blocks(TEXT["docs/extend.md"], "python") if "SPACE = " in block)
    (tmp_path / "mine.py").write_text(code)
    assert from_file(tmp_path / "mine.py").name == "mine"


@pytest.mark.slow
def test_its_core_example_runs(tmp_path):
    code = next(block for block in blocks(TEXT["docs/extend.md"], "python") if "fit(" in block)
    code = code.replace("lam=0.1", "lam=0.1, epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=patience(200)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 0.")


@pytest.fixture(scope="session")
def workplace(demo, tmp_path_factory) -> Path:
    """A reader's folder: the demo's search, and `photos/`, made of the demo's images."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(demo, folder, dirs_exist_ok=True)
    (folder / "photos").mkdir()
    store = Store(datasets.prepare("digits", None, 16))
    classes, groups = store.manifest.classes, store.manifest.groups
    rows = ["file_path,label_name,group_name,split"]
    for split in ("train", "val", "test"):
        chosen = store.rows(split)
        for label in range(10):
            for row in chosen[store.label[chosen] == label][:3]:
                name = f"{len(rows) - 1}.png"
                Image.fromarray(np.asarray(store.images(np.array([row]))[0])).save(folder / "photos" / name)
                rows.append(f"{name},{classes[label]},{groups[store.group[row]]},{split}")
    (folder / "photos" / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", TEXT)
def test_every_command_runs(page, workplace):
    for command in commands(TEXT[page]):
        if reason_not_to_run(command):
            continue
        for name, own in OWN.items():
            command = command.replace(name, own)
        command += "".join(f" {shorter}" for what, shorter in SHORTER.items() if what in command)
        words = shlex.split(command)
        assert words[0] == "tune-fairlora", f"nobody knows whether this runs: {command}"
        argv = [sys.executable, "-m", f"tune_fairlora.{words[1]}", *words[2:]]
        done = subprocess.run(argv, cwd=workplace, capture_output=True, text=True, timeout=patience(900))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_the_readmes_python_runs(workplace):
    code = next(block for block in blocks(TEXT["README.md"], "python") if "tf.run" in block)
    code = code.replace("trials=24", "trials=4").replace('export("model")', 'export("from_python")')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, timeout=patience(900)
    )
    assert done.returncode == 0, done.stderr
    assert (workplace / "from_python" / "model.json").exists()
