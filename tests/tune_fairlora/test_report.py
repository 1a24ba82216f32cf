"""The report: one file that needs nothing and runs nothing but its own script, whatever names a search holds."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis import results
from tests import told
from tests.analysis.handmade import HOSTILE, NAME
from tests.processes import patience
from tune_fairlora import cli
from tune_fairlora.algorithms.study import distribution_data
from tune_fairlora.reporting import sections
from tune_fairlora.reporting.page import document


class Page(HTMLParser):
    """What a browser makes of a page: elements with attributes, texts, scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.scripts, self._open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        (self.scripts if inside == "script" else self.texts).append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Page, str]:
    """A search with hostile names of folder, classes and groups, and its report."""
    statuses = ["complete"] * 12 + ["stopped", "failed", "complete", "diverged"]
    folder = told.write(
        tmp_path_factory.mktemp("runs") / NAME,
        statuses=statuses,
        classes=[*HOSTILE, "owl", "a|b"],
        groups=list(HOSTILE),
    )
    assert cli.main(["report", "--search", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    return folder, Page(text), text


def test_names_are_shown_and_nothing_of_them_runs(made):
    _, page, text = made
    for name in (*HOSTILE, f"Search {NAME}", "<img src=x onerror=alert(2)>"):
        assert name in page.text
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert {tag for tag, _ in page.elements}.isdisjoint({"iframe", "object", "embed", "form", "link", "base"})
    assert len(page.scripts) == 1 and "alert(1)</script>" not in page.scripts[0]
    assert text.count("<script") == 1


def test_the_page_allows_its_own_script_alone_and_no_network(made):
    _, page, text = made
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sources = [a.get("src", "") or a.get("href", "") for _, a in page.elements]
    assert all(source.startswith(("data:image/svg+xml;base64,", "#")) for source in sources if source)
    assert "url(" not in text and "@import" not in text and len(text) < 2_000_000


def test_every_picture_is_a_drawing_without_text(made):
    images = [a for tag, a in made[1].elements if tag == "img"]
    assert len(images) >= 7 and all(a["alt"] for a in images)
    for image in images:
        drawing = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert drawing.startswith("<?xml") and "<script" not in drawing and "<text" not in drawing


def test_all_of_the_search_is_in_it(made):
    folder, page, _ = made
    table = pd.read_parquet(folder / "trials.parquet")
    for number in table.loc[table["on_front"], "number"]:
        assert f"trial {number}" in page.texts
    best = table[table["status"] == "complete"].groupby("method")["val_accuracy"].max()
    for value in best:
        assert f"{100 * value:.2f}" in page.texts
    for text in ("place 9 of 9", "f00d", "vit.safetensors, hash beef", "tpe, moasha", "0.1.0"):
        assert text in page.text
    assert "Methods at equal effort, validation split" in page.texts
    assert "In ΔF1, it cannot be told whether λ > 0 is better than λ = 0 here" in page.text
    assert "/somewhere/of/mine" not in page.text  # where files lie is nobody's business
    assert "The smallest class has" in page.text and "16 trials: 13 complete" in page.text
    assert "All numbers are of the validation split" in page.text and "test split, " not in page.text


def test_the_curve_follows_the_order_in_which_trials_ended(tmp_path):
    from analysis import results
    from tune_fairlora.record.event_log import Record, read_events
    from tune_fairlora.record.tables import render

    folder = told.write(tmp_path / "s", trials=3, statuses=["running", "complete", "stopped"], close=None)
    record = Record(folder)
    record.add("end", number=0, status="interrupted", reason="", tables={})
    record.add("launch", number=0)
    record.add("end", number=0, status="failed", reason="", tables={})
    render(record)
    record.close()
    data = sections.report_data(results.read(folder), read_events(folder), "val_accuracy")
    assert data.order.to_numpy().tolist() == [[1, 6], [2, 8], [0, 8]]


def test_a_search_that_runs_and_one_without_a_complete_trial_have_a_report(tmp_path):
    told.write(tmp_path / "runs", trials=6, statuses=["complete", "running"], close=None)
    assert cli.main(["report", "--search", str(tmp_path / "runs")]) == 0
    assert "The search is still running" in Page((tmp_path / "runs/report.html").read_text()).text
    told.write(tmp_path / "none", trials=2, statuses=["failed", "stopped"], close="interrupted")
    assert cli.main(["report", "--search", str(tmp_path / "none")]) == 0
    text = Page((tmp_path / "none/report.html").read_text()).text
    assert "no trial is complete" in text and "ended early (interrupted)" in text and "reason" in text
    told.write(tmp_path / "begun", trials=0, close=None)
    assert cli.main(["report", "--search", str(tmp_path / "begun")]) == 0


def test_confirmed_numbers_come_in_their_own_section(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    numbers = {f"test_{name}": 0.25 for name in ("accuracy", "min_f1", "min_recall", "delta_f1", "eod_max")}
    numbers |= {f"test_{name}": 0.25 for name in ("equalized_odds", "min_group_accuracy", "delta_group_accuracy")}
    config_id = pd.read_parquet(folder / "trials.parquet").set_index("number").at[0, "config_id"]
    row = {"number": 0, "config_id": config_id, "trained_on": "train", "test_loss_variance": 0.5, **numbers}
    told_of = json.loads((folder / "search.json").read_text()) | {"data": "waterbirds"}
    (folder / "search.json").write_text(json.dumps(told_of))
    pd.DataFrame([row]).to_parquet(folder / "confirmed.parquet")
    assert cli.main(["report", "--search", str(folder), "--out", str(tmp_path / "out.html")]) == 0
    page = Page((tmp_path / "out.html").read_text())
    assert "Measured on the test split" in page.texts and "Methods compared, test split" in page.texts
    assert "25.00" in page.texts and "but for the section that says test split" in page.text
    assert "Printed in the paper: waterbirds" in page.texts and "72.74 ± 2.94" in page.texts
    assert "Printed in the paper" not in made[1].text  # whose numbers are of the validation split


def test_what_an_older_record_lacks_is_left_out_for_its_trials_alone(tmp_path):
    """As in a search that this version has resumed: an earlier one kept no odds gap."""
    folder = told.write(tmp_path / "resumed")
    first, *rest = (int(n) for n in results.read(folder).trials.query("on_front")["number"])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "end" and event["number"] == first:
            del event["tables"]["by_group"]["odds_gap"]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert rest and cli.main(["report", "--search", str(folder)]) == 0
    texts = Page((folder / "report.html").read_text()).texts
    shown = {}
    for title in ("Accuracy ↑ by group", "Equalized odds gap to the rest ↓ by group"):
        begin = next(i for i, text in enumerate(texts) if text.startswith(title))
        shown[title] = {int(text[6:]) for text in texts[begin : begin + 60] if re.fullmatch(r"trial \d+", text)}
    assert list(shown.values()) == [{first, *rest}, set(rest)]


def test_several_seeds_give_deviations(tmp_path):
    told.write(tmp_path / "two", trials=8, seeds=2)
    assert cli.main(["report", "--search", str(tmp_path / "two")]) == 0
    text = Page((tmp_path / "two/report.html").read_text()).text
    assert "mean ± standard deviation over 2 seeds" in text and "one seed" not in text


def test_three_objectives_of_which_one_has_no_interval(tmp_path):
    objectives = {"val_accuracy": "maximize", "val_eod_max": "minimize", "val_loss": "minimize"}
    told.write(tmp_path / "three", objectives=list(objectives), directions=list(objectives.values()))
    assert cli.main(["report", "--search", str(tmp_path / "three")]) == 0
    page = Page((tmp_path / "three/report.html").read_text())
    assert "EOD max ↓" in page.texts and "loss (nats) ↓" in page.texts and "Not shown" not in page.text


def test_it_is_found_by_name_and_prints_the_path(made, capsys, monkeypatch):
    monkeypatch.chdir(made[0].parent.parent)
    assert cli.main(["report", "--search", NAME, "--storage", str(made[0].parent), "--by", "val_delta_f1"]) == 0
    assert capsys.readouterr().out.strip() == str(made[0] / "report.html")
    assert "lowest validation ΔF1" in Page((made[0] / "report.html").read_text()).text
    assert [path.name for path in made[0].iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--search", "nothing"], "nothing must be a search in runs or its folder; there are: none"),
        ([], "the following arguments are required: --search"),
        (["--search", "{}", "--by", "val_beauty"], "unknown metric of --by 'val_beauty'"),
        (["--search", "{}", "--out", "no/such/folder/x.html"], "--out must be a file in a folder that exists"),
        (["--search", "{}", "--out", "."], "--out must be a file in a folder that exists"),
    ],
)
def test_a_mistake_is_one_line(made, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *(a.replace("{}", str(made[0])) for a in argv)]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_damaged_tables_are_one_line(made, tmp_path, capsys):
    shutil.copytree(made[0], tmp_path / "copy")
    (tmp_path / "copy/trials.parquet").write_bytes(b"torn")
    assert cli.main(["report", "--search", str(tmp_path / "copy")]) == 2
    (tmp_path / "copy/trials.parquet").unlink()
    assert cli.main(["report", "--search", str(tmp_path / "copy")]) == 2
    shutil.copyfile(made[0] / "trials.parquet", tmp_path / "copy/trials.parquet")
    with open(tmp_path / "copy/events.jsonl", "a") as log:
        log.write('{"event": "end", "time": 0, "number": 99}\n')
    assert cli.main(["report", "--search", str(tmp_path / "copy")]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "must be whole, but" in first and "has no trials.parquet" in second and "an event of it is not" in third


def test_it_needs_neither_torch_nor_ray_and_no_file_of_the_user_hides_ours(made, tmp_path):
    (tmp_path / "analysis.py").write_text("raise SystemExit('the user\\'s')")
    code = (
        "import sys; from tune_fairlora import cli; "
        f"cli.main(['report', '--search', {str(made[0])!r}, '--out', 'r.html']); "
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert re.search("<title>Search &lt;img", (tmp_path / "r.html").read_text())


@pytest.mark.slow
def test_a_browser_draws_the_front_runs_no_name_and_asks_nobody(made, chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    heard: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone's
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
        page.goto((made[0] / "report.html").as_uri())
        assert page.locator(".front svg").count() >= 1  # the page's own script is allowed to run
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert not heard
        page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x onerror=alert(3)>')")
        page.wait_for_timeout(patience(500))
        browser.close()
    assert heard and all("Content Security Policy" in text for text in heard)  # refused, were one ever to get in


def test_a_script_that_no_section_may_run_is_not_allowed_by_the_policy():
    page = document("t", "", [("h", "<p><script>alert(1)</script></p>")], ["drawFront()"])
    allowed = re.search(r"script-src ([^\"]*)\"", page)[1]
    digest = base64.b64encode(hashlib.sha256(b"drawFront()").digest()).decode()
    assert allowed == f"'sha256-{digest}'"


@pytest.mark.parametrize(
    "distribution, text",
    [
        (CategoricalDistribution((0, 4, 16)), "0 | 4 | 16"),
        (CategoricalDistribution(("qkv", "qv")), "qkv | qv"),
        (FloatDistribution(1e-3, 0.1, log=True), "0.001 … 0.1 (log)"),
        (FloatDistribution(0, 1), "0.0 … 1.0"),
        (IntDistribution(1, 8), "1 … 8"),
    ],
)
def test_what_was_searched_is_told_in_words(distribution, text):
    data = distribution_data(distribution)
    assert sections._searched(data) == text
    assert sections._searched({"lora": data}) == f"lora {text}"
