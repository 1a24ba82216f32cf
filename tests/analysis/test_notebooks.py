"""The notebooks call the package and define nothing, are kept without outputs, and run on the record of a search."""

import ast
import os
from pathlib import Path

import nbclient
import nbformat
import pytest

from analysis import results
from tests import told
from tests.analysis.handmade import HOSTILE, NAME
from tests.processes import patience

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))
NAMES = {"pareto", "rank_and_lambda", "paper_tables"}


def cells(path: Path) -> list:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_three_are_there():
    assert {path.stem for path in NOTEBOOKS} == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_outputs_and_define_nothing(path):
    for cell in cells(path):
        assert not cell.outputs and cell.execution_count is None
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))
            if isinstance(node, ast.ImportFrom):
                assert node.module.partition(".")[0] in ("analysis", "pathlib", "IPython")
            assert not isinstance(node, ast.Import)


def run(path: Path, search: Path) -> str:
    """The HTML that the notebook shows of the search; any error of a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=patience(300), kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(results.SEARCH_VARIABLE, str(search))
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("data", {}).get("text/html", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run_on_the_demos_record_and_say_validation(path, demo):
    shown = run(path, demo / "runs" / "demo")
    assert "validation" in shown and shown.count("data:image/svg+xml") >= 2
    if path.stem == "paper_tables":
        assert "Not shown: nothing of this search was measured on the test split" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_name_runs_in_them(path, tmp_path):
    shown = run(path, told.write(tmp_path / NAME, trials=10, classes=[*HOSTILE, "owl"], groups=list(HOSTILE)))
    assert "<script>alert" not in shown and "<img src=x" not in shown
    assert shown.count("Not shown: ") == (path.stem == "paper_tables")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run_on_a_record_without_a_complete_trial(path, tmp_path):
    told.write(tmp_path / "none", trials=3, statuses=["stopped", "failed", "running"], close=None)
    assert "Not shown: no " in run(path, tmp_path / "none") or path.stem == "pareto"


def test_the_newest_search_is_found_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(results.SEARCH_VARIABLE, raising=False)
    monkeypatch.setattr(results, "RUNS", (tmp_path / "runs", tmp_path / "more"))
    with pytest.raises(ValueError, match="there is no search in runs/"):
        results.newest()
    for i, name in enumerate(("runs/old", "more/new")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trials.parquet").touch()
        os.utime(tmp_path / name / "trials.parquet", (i, i))
    assert results.newest() == tmp_path / "more/new"
    monkeypatch.setenv(results.SEARCH_VARIABLE, "elsewhere")
    assert results.newest() == Path("elsewhere")
