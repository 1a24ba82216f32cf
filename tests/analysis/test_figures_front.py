"""What a figure draws, read back from its artists; and the checked reader that feeds it."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import configurations, results
from analysis.figures import front


@pytest.fixture
def search(tmp_path):
    """Five trials by hand: 0 and 1 on the front, 2 dominated, 3 far off, 4 stopped early."""
    table = pd.DataFrame(
        {
            "number": range(5),
            "config_id": list("abcde"),
            "seed": 0,
            "status": ["complete"] * 4 + ["stopped"],
            "method": ["lora", "fairlora", "fft", "fairfft", "lora"],
            "on_front": [True, True, False, False, False],
            "val_accuracy": [0.9, 0.8, 0.85, 0.1, 0.99],
            "val_delta_f1": [0.3, 0.1, 0.35, 0.9, 0.0],
        }
    )
    settings = {"name": "s", "objectives": ["val_accuracy", "val_delta_f1"], "directions": ["maximize", "minimize"]}
    (tmp_path / "search.json").write_text(json.dumps(settings))
    table.to_parquet(tmp_path / "trials.parquet")
    table[["number"]].to_parquet(tmp_path / "epochs.parquet")
    return tmp_path


def test_the_figure_shows_complete_trials_and_joins_the_front(search):
    figure = front.figure(results.read(search))
    ax = figure.axes[0]
    dots = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    assert sorted(map(tuple, np.round(dots, 6))) == [(0.1, 0.9), (0.8, 0.1), (0.85, 0.35), (0.9, 0.3)]
    assert ax.lines[0].get_xdata().tolist() == [0.8, 0.9] and ax.lines[0].get_ydata().tolist() == [0.1, 0.3]
    assert {t.get_text() for t in ax.texts} == {"0", "1", "outside the frame: 1"}
    assert ax.get_xlabel() == "validation accuracy (more is better)"
    assert ax.get_ylabel() == "validation ΔF1 (less is better)"
    assert ax.get_title() == "s: 2 of 4 trials on the front"


def test_equal_points_share_a_label_and_axes_keep_a_span(search):
    table = pd.read_parquet(search / "trials.parquet")
    table.loc[:3, ["val_accuracy", "val_delta_f1"]] = [0.5, 0.2]
    table.assign(on_front=table["number"] < 4).to_parquet(search / "trials.parquet")
    ax = front.figure(results.read(search)).axes[0]
    assert [t.get_text() for t in ax.texts] == ["0, 1, 2, 3"]
    assert np.ptp(ax.get_xlim()) == pytest.approx(0.02) and np.ptp(ax.get_ylim()) == pytest.approx(0.02)


def test_a_search_without_a_complete_trial_is_drawn_empty(search):
    table = pd.read_parquet(search / "trials.parquet").assign(status="failed", on_front=False)
    table.to_parquet(search / "trials.parquet")
    assert isinstance(front.figure(results.read(search)), Figure)


def test_a_frame_shows_every_member_and_no_outlier():
    rows = pd.DataFrame({"x": [0.7, 0.71, 0.72, 0.73, 0.74, 0.1], "x_sd": np.nan, "on_front": False})
    rows.loc[4, "on_front"] = True
    low, high = front.limits(rows, "x")
    assert 0.6 < low < 0.7 and 0.74 < high < 0.8
    rows.loc[5, "on_front"] = True
    low, high = front.limits(rows, "x")
    assert low < 0.1 < 0.74 < high


@pytest.mark.parametrize("name", ["search.json", "trials.parquet", "epochs.parquet"])
def test_a_folder_that_is_no_search_is_named(search, name):
    (search / name).unlink()
    with pytest.raises(ValueError, match=f"must be the folder of a search, but has no {name}"):
        results.read(search)


def test_a_missing_column_is_named(search):
    pd.read_parquet(search / "trials.parquet").drop(columns="val_delta_f1").to_parquet(search / "trials.parquet")
    with pytest.raises(ValueError, match="must have the column val_delta_f1"):
        results.read(search)


def test_with_several_seeds_a_point_is_a_mean_with_its_spread(search):
    settings = json.loads((search / "search.json").read_text()) | {"seeds": 2}
    (search / "search.json").write_text(json.dumps(settings))
    table = pd.read_parquet(search / "trials.parquet").assign(on_front=[True, True, False, False, False])
    table.loc[4, "status"] = "complete"  # its second seed is not there
    table.to_parquet(search / "trials.parquet")
    read = results.read(search)
    rows = configurations.complete(read)  # trials 0 and 1, 2 and 3; the fifth is alone
    assert rows["number"].tolist() == [0, 2] and rows["on_front"].tolist() == [True, False]
    assert rows["val_accuracy"].tolist() == pytest.approx([0.85, 0.475])
    assert rows["val_accuracy_sd"].tolist() == pytest.approx([0.1 / 2**0.5, 0.75 / 2**0.5])
    assert front.figure(read).axes[0].get_title() == "s: 1 of 2 configurations (2 seeds each) on the front"


def test_a_search_whose_name_looks_like_mathematics_is_drawn(search, tmp_path):
    settings = json.loads((search / "search.json").read_text()) | {"name": "$x_{$ <b>"}
    (search / "search.json").write_text(json.dumps(settings))
    figure = front.figure(results.read(search))
    figure.savefig(tmp_path / "front.png")
    assert figure.axes[0].get_title() == "$x_{$ <b>: 2 of 4 trials on the front"
