"""README stays true: every metric, method, option and file that it should name is there, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

from search_spaces.user_file import from_file
from tests.processes import patience
from trainables.config import METHODS
from trainables.metrics import METRICS
from tune_fairlora.search import parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_metric_stands_in_the_table_with_its_formula():
    for name, metric in METRICS.items():
        arrow = {"maximize": "up", "minimize": "down"}[metric.direction]
        assert f"| `{name}` | {arrow} | {metric.formula.replace('|', chr(92) + '|')} |" in README


def test_every_method_stands_in_its_table():
    for name, method in METHODS.items():
        assert f"| `{name}` |" in README
        assert all(f"`{hyperparameter}`" in README for hyperparameter in method.hyperparameters)


def test_every_option_that_it_names_exists():
    known = {option for action in parser()._actions for option in action.option_strings}
    commands = re.findall(r"tune_fairlora\.search(.*?)(?:`|```)", README, flags=re.S)
    named = {word for command in commands for word in re.findall(r"--[a-z-]+", command)}
    assert named and named <= known


def test_its_space_is_a_space(tmp_path):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "SPACE = " in block)
    (tmp_path / "mine.py").write_text(code)
    assert from_file(tmp_path / "mine.py").name == "mine"


def test_its_core_example_runs(tmp_path):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "fit(" in block)
    code = code.replace("lam=0.1", "lam=0.1, epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=patience(200)
    )
    assert done.returncode == 0, done.stderr
    epoch, accuracy = done.stdout.split()[:2]
    assert epoch == "1" and 0 <= float(accuracy) <= 1


def test_every_file_that_it_links_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
