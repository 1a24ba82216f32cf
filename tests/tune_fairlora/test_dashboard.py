"""Optuna's own dashboard opens the file of a search's study as it is, while the search may still be at work."""

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from search_spaces import SPACES
from tests.processes import patience, until
from tests.records import TrialLauncher, begun
from tune_fairlora.algorithms.searcher import StudySearcher


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=patience(10)) as answer:
        return answer.read()


def answers(port: int) -> bool:
    try:
        return bool(get(port, "/dashboard"))
    except OSError:
        return False


@pytest.mark.slow
def test_optunas_dashboard_shows_the_trials_of_a_study(tmp_path, port):
    record = begun(tmp_path)
    searcher = StudySearcher(SPACES["digits"], tmp_path, "tpe", 0, record, TrialLauncher(record), 10)
    for i in range(4):
        searcher.suggest(str(i))
    for number, accuracy in enumerate((0.5, 0.7)):
        searcher.launcher.end(searcher, number, accuracy=accuracy, delta=0.1)
    searcher.launcher.end(searcher, 2, "failed", "OutOfMemoryError: 3 GiB")
    command = [Path(sys.executable).parent / "optuna-dashboard", tmp_path / "optuna.journal", "--port", str(port)]
    server = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        [study] = json.loads(get(port, "/api/studies"))["study_summaries"]
        assert study["study_name"] == "search" and study["directions"] == ["maximize", "minimize"]
        trials = json.loads(get(port, f"/api/studies/{study['study_id']}"))["trials"]
        assert [t["state"] for t in trials[:4]] == ["Complete", "Complete", "Fail", "Running"]
        assert trials[1]["values"] == [0.7, 0.1]
        assert {"key": "reason", "value": "OutOfMemoryError: 3 GiB"} in trials[2]["user_attrs"]
    finally:
        server.kill()
        server.wait()
    record.close()
