"""The interactive page: what it draws, and that no text of a user's can run in it. A browser opens it elsewhere."""

import json
import math
import re

import pandas as pd
import pytest

from analysis import claims
from analysis.html.front_page import content, fragment, page
from analysis.results import Search

HOSTILE = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "=cmd()", "a\u2028b", "$x_1$", "\"&'"]


def search(seeds: int = 1, **columns) -> Search:
    trials = pd.DataFrame(
        {
            "number": range(4),
            "config_id": list("abcd"),
            "method": ["lora", "fairlora", "fft", "lora"],
            "status": ["complete", "complete", "complete", "stopped"],
            "on_front": [True, True, False, False],
            "val_accuracy": [0.9, 0.8, 0.7, 0.99],
            "val_delta_f1": [0.3, 0.1, 0.4, 0.01],
            "rank": [8, 16, None, 4],
            "lam": [None, 0.1, None, 0.2],
            "batch_size": 64,
            "seed": range(4),
        }
        | columns
    )
    return Search("s", ["val_accuracy", "val_delta_f1"], ["maximize", "minimize"], trials, pd.DataFrame(), seeds=seeds)


def test_it_draws_complete_configurations_and_says_which_are_on_the_front():
    drawn = content(search())
    points = {point["number"]: point for point in drawn["points"]}
    assert sorted(points) == [0, 1, 2] and [p["number"] for p in drawn["points"] if p["front"]] == [0, 1]
    assert points[1]["values"] == [0.8, 0.1] and points[1]["half"] == [None, None]
    assert points[1]["chance"] is None and points[1]["trainings"] == 1
    assert drawn["verdict"] == [] and drawn["bars"] == "" and drawn["bands"] == [[0], [1]]
    assert [axis["up"] for axis in drawn["axes"]] == [True, False]
    assert drawn["points"][-1]["front"] and not drawn["points"][0]["front"]  # the front is drawn above the others


def test_a_point_has_the_hyperparameters_that_its_method_has_and_that_differ():
    points = {point["number"]: point["settings"] for point in content(search())["points"]}
    assert points == {0: {"rank": 8}, 1: {"rank": 16, "λ": 0.1}, 2: {}}


def test_trainings_of_a_configuration_are_one_point():
    repeated = search(seeds=2, method="lora", status="complete", config_id=list("aabb"), rank=8, lam=None)
    drawn = content(repeated)
    assert [point["number"] for point in drawn["points"]] == [2, 0]
    front = drawn["points"][1]
    assert front["values"][0] == pytest.approx(0.85) and front["trainings"] == 2


def test_a_point_has_its_interval_and_its_chance_and_points_that_cannot_be_told_apart_are_a_band():
    four = search(status="complete", val_accuracy=[0.9, 0.8, 0.7, 0.6], val_delta_f1=[0.3, 0.1, 0.4, 0.5])
    rows = claims.claims(four).rows
    drawn = content(four)
    points = {point["number"]: point for point in drawn["points"]}
    for number, row in enumerate(rows.to_dict("records")):
        assert points[number]["values"] == [row["val_accuracy_claimed"], row["val_delta_f1_claimed"]]
        assert points[number]["half"] == [row["val_accuracy_half"], row["val_delta_f1_half"]]
        assert points[number]["chance"] == row["chance"]
    assert drawn["bands"] == [[0, 1]] and drawn["bars"] == "Bars are 95 % intervals over other seeds. "
    assert drawn["verdict"][1] == "No two of its points can be told apart: choose by what else matters."
    table = re.search(r"<tbody>(.*)</tbody>", page(four), flags=re.S).group(1)
    cells = [f"{value:.3f} ± {half:.3f}" for value, half in zip(points[0]["values"], points[0]["half"])]
    assert all(f"<td>{cell}</td>" in table for cell in cells)
    assert f"<td>{points[0]['chance']:.2f}</td><td>1</td>" in table
    for axis, name in zip(drawn["axes"], four.objectives):  # the ends of the bars are inside of the frame
        front = rows[rows["on_front"]]
        assert axis["frame"][0] < (front[f"{name}_claimed"] - front[f"{name}_half"]).min()
        assert axis["frame"][1] > (front[f"{name}_claimed"] + front[f"{name}_half"]).max()


def test_the_frame_holds_the_front_whatever_lies_far_away():
    far = search(val_accuracy=[0.9, 0.8, 0.05, 0.9], status="complete")
    low, high = content(far)["axes"][0]["frame"]
    assert low < 0.8 and high > 0.9


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_leaves_its_place(name):
    whole = page(Search(name, *[getattr(search(), f) for f in ("objectives", "directions", "trials", "epochs")]))
    scripts = re.findall(r"<script>(.*?)</script>", whole, flags=re.S)
    assert len(scripts) == 1 and whole.count("<script") == 1
    assert "<img" not in whole and "\u2028" not in scripts[0]
    data = json.loads(re.search(r"getElementById\(\"front-\d+\"\), (\{.*\})\);", scripts[0]).group(1))
    assert data["name"] == name


def test_a_page_asks_nobody_for_anything():
    whole = page(search())
    links = set(re.findall(r"https?://[^\"'\s)]+", whole))
    assert links == {"http://www.w3.org/2000/svg"}  # the name of SVG, which nobody fetches
    assert not re.search(r"\b(src|href|import|fetch|XMLHttpRequest|@import)\s*[=(]", whole)
    assert len(whole) < 25_000


def test_fragments_share_a_page():
    ids = re.findall(r'<div class="front" id="(front-\d+)">', fragment(search()) + fragment(search()))
    assert len(ids) == len(set(ids)) == 2


def test_a_search_without_a_complete_trial_says_so_without_breaking():
    drawn = content(search(status="failed", on_front=False, val_accuracy=math.nan, val_delta_f1=math.nan))
    assert drawn["points"] == [] and drawn["axes"][0]["frame"] == [] and "<tbody></tbody>" in page(search(status="x"))


def test_the_table_below_lists_the_front_best_first():
    rows = re.findall(r"<tr><td>(\d+)</td><td>(\w+)</td>", page(search()))
    assert rows == [("0", "lora"), ("1", "fairlora")]


def test_numbers_are_those_of_the_table_however_large():
    drawn = content(search(val_delta_f1=[12.345678, 1234.5678, 0.4, 0.1]))
    assert sorted(point["values"][1] for point in drawn["points"]) == [0.4, 12.345678, 1234.5678]
