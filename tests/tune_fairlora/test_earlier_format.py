"""A search of the previous format of the record is read by everything, sent to MLflow, and resumed.

``search_format_2.tar.gz`` is such a search as it was left by an interrupt (`--space digits --methods lora,fairlora
--trials 6 --epochs 3 --constraint "val_accuracy>=0.2" --max-concurrent 1`): trials 0 to 2 complete, with 2 alone on the
front, 3 stopped, 4 interrupted after its first epoch, 5 not begun. In its texts /searched stands for the folder it was
made in. Its weights, half precision to keep them small, lie beside it.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from analysis import results
from analysis.record_format import FORMAT, upgraded
from search_spaces import SPACES
from tests.mirror import search_runs
from tests.processes import refusal
from trainables.prepare import datasets
from tune_fairlora import cli
from tune_fairlora.algorithms.study import distribution_data
from tune_fairlora.record.event_log import read_events
from tune_fairlora.record.state import COMPLETE, INTERRUPTED, STOPPED, State
from tune_fairlora.tracking.client import newest_search
from tune_fairlora.tracking.tracker import resync

ARCHIVE = Path(__file__).parents[1] / "data/search_format_2.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    store = datasets.prepare("digits", None, 16)
    for name in ("events.jsonl", "search.json", "mlflow.json"):
        path = tmp_path / "before" / name
        text = path.read_text().replace("/searched/digits.arrow", str(store)).replace("/searched", str(tmp_path))
        path.write_text(text)
    return tmp_path / "before"


def state_of(folder: Path) -> State:
    state = State()
    for entry in read_events(folder):
        state.apply(entry)
    return state


def test_analysis_reads_it(folder: Path) -> None:
    found = results.read(folder)
    assert found.trials["status"].tolist() == [COMPLETE, COMPLETE, COMPLETE, STOPPED, INTERRUPTED]
    assert found.trials["on_front"].tolist() == [False, False, True, False, False]
    assert len(found.epochs) == 3 + 3 + 3 + 2 + 1 and state_of(folder).front() == [2]
    assert "val_adjusted_accuracy" not in found.trials  # it came later


def test_it_is_reported(folder: Path) -> None:
    assert cli.main(["report", "--search", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "rank: 0 | 1 | 2 | 4 | 8 | 16 | 32" in page and "lora 0.001 … 0.015 (log)" in page
    assert "worst group accuracy ↑" in page and "worst attribute accuracy ↑" in page
    assert "odds gap" not in page  # what this version measures and that one did not


def test_a_trial_of_it_is_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--search", str(folder), "--pick", "knee", "--merge"]) == 0
    assert "trial 2 is in" in capsys.readouterr().out
    assert (folder / "exports/0002-merged/model.safetensors").stat().st_size > 400_000
    card = (folder / "exports/0002-merged/README.md").read_text()
    assert "| `adjusted_accuracy` | – |" in card and "| `worst_cell_accuracy` | 0." in card and "odds_gap" not in card


def test_it_is_sent_to_another_mlflow_where_the_page_is_opened(folder: Path, store: str) -> None:
    assert resync(folder, store) == 0
    _, trials = search_runs(store, folder, "tune-fairlora")
    assert [trials[n].data.tags["status"] for n in range(5)] == [COMPLETE, COMPLETE, COMPLETE, STOPPED, INTERRUPTED]
    assert [n for n, run in trials.items() if run.data.tags["pareto"] == "true"] == [2]
    assert newest_search(store).name == "before"


def test_its_resume_is_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--resume", str(folder), "--dry-run"]) == 0
    assert "5 trials begun, 1 of them not at their end, 6 in all" in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_resumed_to_its_end(folder: Path) -> None:
    before, curves = state_of(folder), results.read(folder).epochs
    command = [sys.executable, "-m", "tune_fairlora.search", "--resume", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    state, table = state_of(folder), results.read(folder)
    assert sorted(state.trials) == list(range(6)) and state.status == COMPLETE
    assert not state.count("running", INTERRUPTED, "failed")
    assert {n: state.trials[n].values for n in before.trials} == {n: t.values for n, t in before.trials.items()}
    old = table.epochs.merge(curves[["number", "epoch"]])
    assert old[list(curves)].equals(curves)  # what was measured stays, the interrupted trial's first epoch among it
    assert old["val_adjusted_accuracy"].isna().all() and table.epochs["val_adjusted_accuracy"].notna().sum() > 0
    assert state.trials[4].decisions and len(table.trials) == 6


@pytest.mark.parametrize("name", SPACES)
def test_the_settings_of_every_space_become_what_this_version_writes(name: str) -> None:
    """A search is resumed if its space is the same, so the upgrade has to be exact. Format 2 held ``str`` of each."""
    space = SPACES[name]
    texts = {
        field: {method: str(one) for method, one in entry.items()} if isinstance(entry, Mapping) else str(entry)
        for field, entry in space.search.items()
    }
    settings = upgraded({"format": 2, "searched": texts, "seed": 3})
    data = {"searched": distribution_data(space.search), "seed": 3, "reseed": 0.0}
    assert settings == {"format": FORMAT} | data == upgraded({"format": 3} | data)
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize("text", ["", "(", "FloatDistribution", "FloatDistribution(low=x)", "1 + 1"])
def test_a_text_that_is_no_distribution_is_a_damaged_line(tmp_path: Path, text: str) -> None:
    event = {"event": "search", "time": 1.0, "settings": {"format": 2, "searched": {"lr": text}}}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert "line 1 is damaged" in refusal(read_events, tmp_path)
