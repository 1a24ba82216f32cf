"""What a person sees: MLflow's real pages on a real demo, in a real browser with a fresh profile. Screenshots are
left in pytest's temporary folder, `screens*/`.

The format of MLflow's prepared views is documented nowhere; an upgrade that changes it is noticed here.
"""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import mirror
from tests.processes import patience
from tune_fairlora.tracking import ui_views

pytestmark = pytest.mark.slow
WIDE = {"width": 1700, "height": 1000}
LIMIT = patience(60_000)  # milliseconds: a page of MLflow's takes 2 to 5 seconds here, and more on a busy machine
DOTS = ".js-plotly-plot .scatterlayer .point"


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def screens(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("screens")


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page of a fresh profile, which fails the test if any script of a name's ran."""
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(LIMIT)
    expect.set_options(timeout=LIMIT)
    dialogs = []
    context.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield context.new_page()
    context.close()
    assert not dialogs


@contextmanager
def ui(folder: Path, *options: str) -> Iterator[str]:
    """The command as a user types it; yields the address that it prints."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tune_fairlora.ui", "--no-browser", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(patience(30))


@pytest.fixture(scope="module")
def address(demo) -> Iterator[str]:
    with ui(demo) as found:
        yield found


@pytest.fixture(scope="module")
def trials(demo) -> pd.DataFrame:
    return pd.read_parquet(demo / "runs/demo/trials.parquet")


def follow(page: Page, name: str) -> Page:
    """The page that a note's link opens."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=name, exact=True).click()
    return opened.value


def fills(page: Page, count: int) -> list[str]:
    """The colours of the scatter's dots, once there are ``count``."""
    expect(page.locator(DOTS)).to_have_count(count)
    return page.eval_on_selector_all(DOTS, "dots => dots.map(dot => getComputedStyle(dot).fill)")


def rgb(color: str) -> str:
    return "rgb(" + ", ".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5)) + ")"


def rows(page: Page, count: int) -> list[str]:
    """The names in MLflow's list of runs."""
    page.get_by_text(f"{count} matching run").wait_for()
    names = page.locator("a[href*='/runs/']").all_inner_texts()
    return [name for name in names if re.match(r"\d{3} ", name)]


def test_the_address_opens_on_the_front_in_red(address, page, trials, screens):
    page.goto(address)
    colors = fills(page, len(trials))
    page.screenshot(path=screens / "front.png")
    front = trials[trials["on_front"]]
    assert colors.count(rgb(ui_views.FRONT_COLOR)) == len(front) >= 1
    others = trials[~trials["on_front"]]
    assert colors.count(rgb(ui_views.COMPLETE_COLOR)) == (others["status"] == "complete").sum()
    assert page.get_by_text("Parallel Coordinates").count() >= 1


def test_the_note_leads_to_the_table_of_exactly_the_front(address, page, trials, screens):
    page.goto(address)
    page = follow(page, "front as a table")
    front = trials[trials["on_front"]].set_index("number")["val_accuracy"]
    names = rows(page, len(front))
    page.screenshot(path=screens / "table.png")
    shown = [int(name[:3]) for name in names]  # of equals either may come first
    assert sorted(shown) == sorted(front.index) and front[shown].is_monotonic_decreasing


def test_the_searchs_run_shows_its_picture_and_links(address, page, trials, screens):
    page.goto(address)
    page = follow(page, "the search")
    page.get_by_text("Show more").click()
    picture = page.locator("img[src*='front.png']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    page.screenshot(path=screens / "run.png", full_page=True)
    best = trials[trials["on_front"]].sort_values("val_accuracy").iloc[-1]
    page.locator(f"td a[href*='{best['mlflow_run_id']}']").wait_for()


def test_the_interactive_page_draws_in_mlflow_and_without_any_network(address, page, demo, trials, screens):
    page.goto(address)
    page = follow(page, "interactive page")
    frame = page.frame_locator("iframe")
    count = trials.loc[trials["on_front"], "config_id"].nunique()
    expect(frame.locator(".dot.member")).to_have_count(count)
    page.screenshot(path=screens / "page.png")

    page.context.set_offline(True)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((demo / "runs/demo/front.html").as_uri())
    members = page.locator(".dot.member")
    expect(members).to_have_count(count)
    members.first.hover()
    expect(page.locator(".tip")).to_be_visible()
    for i in range(2):
        members.nth(i).click()
    expect(page.locator(".pins thead th, .pins tr:first-child td, .pins tr:first-child th")).to_have_count(3)
    page.screenshot(path=screens / "offline.png")
    members.nth(0).click()  # a second click lets go
    expect(page.locator(".pins tr:first-child th")).to_have_count(2)
    assert [url for url in requests if not url.startswith("file:")] == []


def test_a_trials_run_has_its_tables_and_its_confusion_matrix(address, page, trials, screens):
    server, experiment = address.split("/#/")[0], re.search(r"experiments/(\d+)", address)[1]
    run = f"{server}/#/experiments/{experiment}/runs/{trials['mlflow_run_id'].iloc[0]}"
    page.goto(f"{run}/artifacts/by_class.json")
    page.get_by_text("recall").first.wait_for()
    assert page.get_by_text("seven").count() >= 1
    page.screenshot(path=screens / "classes.png")
    page.get_by_text("confusion.html").click()
    cells = page.frame_locator("iframe").locator("td[title]")
    expect(cells.first).to_be_visible()
    assert 10 <= cells.count() <= 100
    page.screenshot(path=screens / "confusion.png")


def test_the_views_of_a_search_of_300_trials_stay_usable(tmp_path, page, screens):
    """MLflow's page loads 100 runs at first: all of the front must be among them."""
    record, tracker = mirror.opened(tmp_path / "many", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for number in range(300):  # the front comes first, so that a list by date would leave it out
        on_front = number < 20
        mirror.trial(
            record, number, 0.7 + 0.01 * number if on_front else 0.3, 0.1 + (0.01 if on_front else 0.002) * number
        )
    front = record.front()
    record.add("close", status="complete", reason="")
    assert front == list(range(19, -1, -1)) and tracker.close(None) == 0 and not tracker.errors
    record.close()
    with ui(tmp_path) as address:
        began = time.monotonic()
        page.goto(address)
        colors = fills(page, ui_views.LOADED)
        print(f"{time.monotonic() - began:.1f} s until the scatter of 300 trials is drawn")
        page.screenshot(path=screens / "many.png")
    assert colors.count(rgb(ui_views.FRONT_COLOR)) == len(front)


HOSTILE = ["<script>alert(1)</script>", "=cmd()", "<img src=x onerror=alert(2)>", "$a_b|c`d`"]


def test_no_name_of_a_users_runs_on_any_page(tmp_path, page, screens):
    """Classes, groups and the search itself are called what an attacker, or a careless person, would call them."""
    uri, name = f"sqlite:///{tmp_path / 'mlflow.db'}", "[x](javascript:alert(3)) <img src=x onerror=alert(4)>"
    settings = {"classes": HOSTILE, "groups": HOSTILE[:2], "name": name, "data": HOSTILE[0]}
    record, tracker = mirror.opened(tmp_path / "run", uri, **settings)
    tables = {
        "by_class": {"count": [3, 3, 3, 0], "f1": [1.0, 0.5, 0.5, None]},
        "by_group": {"count": [5, 4], "accuracy": [1.0, 0.5]},
        "confusion": [[3, 0, 0, 0], [0, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]],
    }
    for number in range(2):
        mirror.trial(record, number, 0.8 + number / 10, 0.2 + number / 10, tables=tables)
    assert mirror.finish(record, tracker) == 0 and not tracker.errors
    with ui(tmp_path) as address:
        page.goto(address)
        fills(page, 2)
        run = follow(page, "the search")
        run.get_by_text("Show more").click()
        expect(run.locator("img[src*='front.png']")).to_be_visible()
        run.screenshot(path=screens / "hostile.png")
        inside = follow(page, "interactive page").frame_locator("iframe")
        expect(inside.locator(".dot.member")).to_have_count(2)
        expect(inside.locator("h2")).to_contain_text(name)
        server, experiment = address.split("/#/")[0], re.search(r"experiments/(\d+)", address)[1]
        page.goto(f"{server}/#/experiments/{experiment}/runs/{record.trials[0].run_id}/artifacts/by_class.json")
        for each in HOSTILE:
            expect(page.get_by_text(each, exact=True).first).to_be_visible()
        page.get_by_text("confusion.html").click()
        expect(page.frame_locator("iframe").locator("td[title]").first).to_be_visible()
        page.wait_for_timeout(patience(1000))  # whatever would run has had its time; `page` fails on a dialog
