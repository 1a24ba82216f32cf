"""Importing changes nothing in the user's process, the commands start in a process of their own making, and a user's
file that hides one of our packages is named in one line."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_fairlora.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainables", "search_spaces", "analysis", "tune_fairlora")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
MODULES = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]
# Prints what of the process the import of each module in argv[2] has changed, once those in argv[1] are imported.
WATCH = """
import importlib, json, logging, os, signal, sys, threading, warnings

def state():
    loggers = [logging.root, *(l for l in logging.root.manager.loggerDict.values() if isinstance(l, logging.Logger))]
    return {
        "import path": list(sys.path), "environment": dict(os.environ), "current folder": os.getcwd(),
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "loggers": {l.name: (l.level, list(l.handlers)) for l in loggers}, "logging": logging.root.manager.disable,
        "warnings": list(warnings.filters), "showwarning": warnings.showwarning,
        "hooks": [sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook, *sys.meta_path],
        "streams": [sys.stdin, sys.stdout, sys.stderr], "threads": threading.enumerate(),
    }

before, ours = map(json.loads, sys.argv[1:])
for name in before:
    importlib.import_module(name)
for name in ours:
    was = state()
    importlib.import_module(name)
    now = state()
    now["loggers"] = {key: now["loggers"][key] for key in was["loggers"]}  # a library's submodule may bring one along
    for what in was:
        if was[what] != now[what]:
            print(name, "changes", what, was[what], now[what])
print("loaded", *(n for n in ("torch", "ray", "mlflow", "optuna", "pandas", "numpy", "rich") if n in sys.modules))
"""


def watched(before: list[str], ours: list[str], folder: Path) -> str:
    command = [sys.executable, "-c", WATCH, json.dumps(before), json.dumps(ours)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_and_its_commands_are_light_and_change_nothing(tmp_path):
    commands = [f"tune_fairlora.{name}" for name in COMMANDS if name != "search"]
    shown = watched([], ["tune_fairlora", "tune_fairlora.startup", "tune_fairlora.cli", *commands], tmp_path)
    assert shown == "loaded"


@pytest.mark.slow
def test_no_module_changes_what_its_libraries_leave_as_it_is(tmp_path):
    """The libraries come first, as torch, Ray and sklearn do set variables and hooks when they are imported."""
    names = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
    libraries = sorted(name for name in names if name.partition(".")[0] not in PACKAGES)
    assert {"torch", "ray", "pandas"} <= set(libraries)
    assert watched(libraries, MODULES, tmp_path).startswith("loaded torch ray mlflow")


def script(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(text)
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment, timeout=60)


def test_a_scripts_neighbours_are_found_after_ours(tmp_path):
    (tmp_path / "helpers.py").write_text("print('helped')")
    done = script(tmp_path, "from tune_fairlora import search\nimport tune_fairlora.export\nimport helpers")
    assert (done.stdout, done.stderr) == ("helped\n", "")


@pytest.mark.parametrize("hiding", ["trainables.py", "analysis/__init__.py", "search_spaces/empty.txt"])
def test_a_users_file_that_hides_a_package_is_named_in_one_line(tmp_path, hiding):
    (tmp_path / hiding).parent.mkdir(exist_ok=True)
    (tmp_path / hiding).write_text("X = 1")
    hidden = tmp_path / Path(hiding).parts[0]
    line = (
        f"{hidden} hides the package {hidden.stem} of tune-fairlora: rename it, or take {tmp_path} off the import path"
    )
    for text in ("import tune_fairlora\ntune_fairlora.open('x')", "from tune_fairlora import search"):
        assert script(tmp_path, text).stderr.splitlines()[-1].startswith(f"ImportError: {line}")
    command = [sys.executable, "-m", "tune_fairlora.search", "--list"]
    path = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, env=os.environ | path, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1


def test_a_command_does_not_import_from_the_current_folder(tmp_path):
    for name in ("trainables", "analysis", "argparse", "rich"):
        (tmp_path / f"{name}.py").write_text(f"print('the {name} of the user')\n")
    for module in ("tune_fairlora.report", "tune_fairlora"):
        done = subprocess.run([sys.executable, "-m", module], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "the user" not in done.stdout + done.stderr and done.returncode in (0, 2)


CONSOLE = Path(sys.executable).with_name("tune-fairlora")
WITH_CONSOLE = pytest.mark.skipif(not CONSOLE.exists(), reason="installed without its console script")


def console(*argv: str, **environment: str) -> subprocess.CompletedProcess:
    command = [CONSOLE, *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=60)


@WITH_CONSOLE
def test_the_console_script_runs_every_command_and_suggests_the_nearest():
    assert console("--version").stdout.startswith("tune-fairlora ")
    shown = console().stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    done = console("confirm")
    assert done.returncode == 2 and done.stderr.startswith("error: the following arguments are required: --search")
    assert console("confirm", "--help").stdout.startswith("usage: tune-fairlora confirm ")
    done = console("serach", "--list")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown command 'serach'") and "search" in done.stderr


@WITH_CONSOLE
@pytest.mark.parametrize(
    ("line", "answer"),
    [("re", {"report "}), ("search --space water", {f"waterbirds_{n}" for n in ("clip", "dino", "vit")}),
     ("export --me", {"--merge "}), ("confirm --refit ", {"train", "trainval"})],
)  # fmt: skip
def test_tab_completes_commands_options_and_names(tmp_path, line, answer):
    line = f"tune-fairlora {line}"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    asked |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer")}
    console(**asked)
    assert set((tmp_path / "answer").read_text().split("\n")) == answer


def shell(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", command.replace("python", sys.executable)], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["search --list", "search --help", "prepare --list"])
def test_a_reader_that_goes_away_gets_no_traceback(command):
    shown = shell(f"set -o pipefail; python -m tune_fairlora.{command} | true")
    assert shown.stderr == "" and shown.returncode in (0, 141)


def test_closed_streams_are_no_matter(tmp_path):
    assert shell("python -m tune_fairlora.search --list >&-").returncode == 0
    assert shell("python -m tune_fairlora.search --nothing 2>&-").returncode == 2


@pytest.mark.slow
def test_a_search_needs_no_standard_streams(tmp_path):
    options = "--space digits --trials 1 --epochs 1 --name closed"
    assert shell(f"cd {tmp_path} && python -m tune_fairlora.search {options} <&- >&- 2>&-").returncode == 0
    assert (tmp_path / "runs/closed/front.html").exists()
