"""``--resume``: what a search takes up, and what it refuses in one line, leaving everything as it was."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.processes import started
from tests.records import metrics
from trainables.config import TrainConfig
from trainables.trial.checkpoints import save_checkpoint, trial_folder
from tune_fairlora import cli
from tune_fairlora.algorithms.searcher import StudySearcher
from tune_fairlora.execution.terminal import Bars
from tune_fairlora.plan import plan
from tune_fairlora.plan.search_options import SearchOptions
from tune_fairlora.record.event_log import Record
from tune_fairlora.tracking.tracking_uri import without_password

OPTIONS = {"space": "digits", "trials": 4, "epochs": 2, "set": {"rank": 4}, "name": "cut"}


class TrialLauncher:
    def __init__(self, record: Record):
        self.record = record

    def launch(self, number: int, config: TrainConfig, repeats: int | None = None) -> dict:
        told = {"values": config.hyperparameters(), "config_id": config.config_id, "seed": config.seed}
        self.record.add("start", number=number, **told, repeats=repeats)
        return {}

    def may_start(self, whole: bool = False) -> bool:
        return True

    def busy(self) -> bool:
        return False


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A search that was killed: trial 0 complete, trial 1 after its first epoch, nothing else begun."""
    folder = tmp_path_factory.mktemp("searches")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with Bars() as bars:
            made = plan.make_plan(SearchOptions(**OPTIONS), bars.images)
    finally:
        os.chdir(before)
    made.folder.mkdir(parents=True)
    record = Record(made.folder)
    record.add("search", settings=made.settings())
    searcher = StudySearcher(made.space, made.folder, "tpe", 0, record, TrialLauncher(record), 4)
    for number in (0, 1):
        searcher.suggest("")
        record.add("epoch", number=number, epoch=1, metrics=metrics(), seconds=0.1)
    record.add("epoch", number=0, epoch=2, metrics=metrics(), seconds=0.1)
    record.add("end", number=0, status="complete", reason="", tables={})
    searcher.tell(record.trials[0])
    trial = record.trials[1]
    save_checkpoint(
        trial_folder(made.folder, 1), {"config_id": trial.config_id, "seed": 0, "epoch": 1}, {"done": False, "epoch": 1}
    )
    record.close()
    return folder


@pytest.fixture
def folder(original, tmp_path, monkeypatch) -> Path:
    """A copy of it, below the current folder."""
    shutil.copytree(original / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/cut"


def content(folder: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def dry_run(capsys, *options: str) -> tuple[int, str]:
    status = cli.main(["search", "--dry-run", *options])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def refused(capsys, *options: str) -> str:
    status, text = dry_run(capsys, *options)
    line = text.splitlines()[-1]
    assert status == 2 and line.startswith("error: "), text
    return line


@pytest.mark.parametrize("name", ["cut", "runs/cut", "{folder}"])
def test_a_search_is_found_by_name_and_by_folder(folder, capsys, name):
    before = content(folder)
    status, out = dry_run(capsys, "--resume", name.format(folder=folder))
    assert status == 0 and "2 trials begun, 1 of them not at their end, 4 in all" in out
    assert "scheduler moasha" in out and content(folder) == before


def test_more_trials_and_the_same_options_may_be_given(folder, capsys):
    status, out = dry_run(capsys, "--resume", "cut", "--trials", "9", "--space", "digits", "--epochs", "2")
    assert status == 0 and "9 in all" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--space", "folder_vit_tiny"], "keeps its --space digits, but got folder_vit_tiny"),
        (["--epochs", "3"], "keeps its --epochs 2, but got 3"),
        (["--sampler", "random"], "keeps its --sampler tpe"),
        (["--seed", "1"], "keeps its --seed 0, but got 1"),
        (["--set", "rank=8"], "keeps its --set rank=4, but got rank=8"),
        (["--objectives", "val_accuracy,val_min_f1"], "keeps its --objectives unset, but got val_accuracy,val_min_f1"),
        (["--trials", "1"], "--trials must be at least the 2 that were begun, but is 1"),
        (["--name", "new"], "has a name already"),
        (["--max-failures", "-1"], ">= 0, whole"),
        (["--time-budget", "0m"], "a time > 0"),
        (["--time-budget", "soon"], "a time must be like 30m"),
    ],
)
def test_what_a_search_cannot_change_is_refused(folder, capsys, options, words):
    before = content(folder)
    assert words in refused(capsys, "--resume", "cut", *options)
    assert content(folder) == before


def test_what_is_no_search_is_refused(folder, capsys):
    (folder.parent / "empty").mkdir()
    assert "must be the folder of a search, but has no events.jsonl" in refused(capsys, "--resume", "empty")
    assert "there are: cut" in refused(capsys, "--resume", "gone")
    (folder.parent / "empty/events.jsonl").touch()
    assert "is empty: that search never began" in refused(capsys, "--resume", "empty")


def edited(folder: Path, change) -> None:
    """Let ``change`` edit the search's settings in the log's first line."""
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    entry = json.loads(lines[0])
    change(entry["settings"])
    (folder / "events.jsonl").write_text("".join([json.dumps(entry) + "\n", *lines[1:]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(format=99), "was made by a newer version"),
        (lambda s: s.pop("format"), "before searches could be resumed"),
        (lambda s: s["searched"].update(lam={"name": "FloatDistribution"}), "lam was {'name': 'FloatDistribution'}"),
        (lambda s: s["fixed"].update(batch_size=32), "the space must be that of the search, but batch_size was 32"),
        (lambda s: s["methods"].reverse(), "methods was"),
        (lambda s: s.update(data_fingerprint="0" * 64), "the data must be that of the search"),
        (lambda s: s.update(weights="0" * 64), "the weights must be that of the search"),
    ],
)
def test_another_version_space_data_or_weights_are_refused(folder, capsys, change, words):
    edited(folder, change)
    assert words in refused(capsys, "--resume", "cut")


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("optuna.journal", lambda b: None, "optuna.journal is missing"),
        ("optuna.journal", lambda b: b"".join(b.splitlines(keepends=True)[:5]), "optuna.journal must"),
        ("optuna.journal", lambda b: b"{}\n" * 30, "cannot be read"),
        ("optuna.journal", lambda b: re.sub(rb'"search"', b'"other"', b), "cannot be read"),
        ("events.jsonl", lambda b: b[:200] + b"\n" + b[200:], "line 1 is damaged"),
        ("events.jsonl", lambda b: b.replace(b'{"event": "epoch"', b"{", 1), "is damaged"),
        ("events.jsonl", lambda b: b.split(b"\n", 1)[1], "must begin with a search's settings"),
        ("trials/0001/checkpoint.pt", lambda b: b[:-200], "must be a whole checkpoint"),
        ("trials/0001/checkpoint.pt", lambda b: b"nothing", "must be a whole checkpoint"),
    ],
)
def test_damaged_files_are_refused_and_left_alone(folder, capsys, file, spoil, words):
    path = folder / file
    spoilt = spoil(path.read_bytes())
    path.unlink() if spoilt is None else path.write_bytes(spoilt)
    line = refused(capsys, "--resume", "cut")
    assert words in line and file.split("/")[-1] in line
    assert (path.read_bytes() if path.exists() else None) == spoilt


def test_another_trials_checkpoint_is_refused(folder, capsys):
    save_checkpoint(trial_folder(folder, 1), {"config_id": "other", "seed": 0}, {"done": False, "epoch": 1})
    assert "checkpoint.pt must be of configuration" in refused(capsys, "--resume", "cut")


def test_a_torn_last_line_is_cut_off(folder, capsys):
    with open(folder / "events.jsonl", "ab") as file:
        file.write(b'{"event": "epoch", "numb')
    assert dry_run(capsys, "--resume", "cut")[0] == 0
    assert (folder / "events.jsonl").read_bytes().endswith(b"}\n")


def test_a_search_that_is_at_work_is_refused(folder, capsys):
    code = "import sys, time; from pathlib import Path; from tune_fairlora.record.event_log import Record\n"
    code += "record = Record(Path(sys.argv[1])); print('open', flush=True); time.sleep(600)"
    other = started(code, folder)
    try:
        assert other.stdout.readline() == "open\n"
        assert "is at work in another process" in refused(capsys, "--resume", "cut")
    finally:
        other.kill()
        other.wait()
    assert dry_run(capsys, "--resume", "cut")[0] == 0  # the lock dies with its process


def test_a_damaged_position_of_mlflow_is_refused(folder, capsys):
    (folder / "mlflow.json").write_text("{")
    assert "mlflow.json must be what the search wrote: delete it" in refused(capsys, "--resume", "cut")


def test_passwords_are_not_written_down():
    assert without_password("postgresql://me:secret@host:5432/db") == "postgresql://me@host:5432/db"
    assert without_password("http://me:p:w@host/x") == "http://me@host/x"
    for uri in ("sqlite:////a:b/c@d.db", "http://host:5000/x", "http://127.0.0.1:5000"):
        assert without_password(uri) == uri
