"""What a figure draws, read back from its artists; and the checked reader that feeds it."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from analysis import claims, configurations, results
from analysis.figures import front


@pytest.fixture
def search(tmp_path):
    """Five trials by hand: 0 and 1 on the front, 2 dominated, 3 far off, 4 stopped early. With one seed each, what is
    claimed is halfway to the median: of accuracy 0.825, of ΔF1 0.325."""
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


def dots(ax):
    marks = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    return sorted(map(tuple, np.round(np.concatenate(marks), 6).tolist()))


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_figure_shows_what_is_claimed_of_complete_trials_with_its_intervals(search):
    read = results.read(search)
    ax = front.figure(read).axes[0]
    assert dots(ax) == [(0.4625, 0.6125), (0.8125, 0.2125), (0.8375, 0.3375), (0.8625, 0.3125)]
    assert {t.get_text() for t in ax.texts} == {"0", "1", "outside the frame: 1"}
    assert ax.get_xlabel() == "validation accuracy (more is better)"
    assert ax.get_ylabel() == "validation ΔF1 (less is better)"
    assert ax.get_title() == "s: 2 of 4 complete configurations on the front"
    rows = claims.claims(read).rows.loc[[1, 0]]
    drawn = [line for bars in ax.collections if isinstance(bars, LineCollection) for line in bars.get_segments()]
    across, upwards = (
        [line for line in drawn if line[0, 1] == line[1, 1]],
        [line for line in drawn if line[0, 0] == line[1, 0]],
    )
    for lines, column, metric in ((across, 0, "val_accuracy"), (upwards, 1, "val_delta_f1")):
        assert [np.ptp(line[:, column]) / 2 for line in lines] == pytest.approx(rows[f"{metric}_half"].tolist())
        assert [line[:, column].mean() for line in lines] == pytest.approx(rows[f"{metric}_claimed"].tolist())
    assert "95 % interval: other seeds" in words(ax)
    low, high = ax.get_xlim()
    assert all(low < line[0, 0] < line[1, 0] < high for line in across)


def test_points_that_cannot_be_told_apart_are_one_band_and_others_are_joined_by_a_step(search):
    ax = front.figure(results.read(search)).axes[0]
    (band,) = [line for line in ax.lines if len(line.get_xdata())]
    assert band.get_xdata().tolist() == pytest.approx([0.8125, 0.8625]) and band.get_linewidth() > 10
    assert band.get_drawstyle() == "default" and "cannot be told apart" in words(ax)
    table = pd.read_parquet(search / "trials.parquet")
    rest = [
        {**table.loc[2].to_dict(), "config_id": f"r{i}", "number": 5 + i, "val_accuracy": 0.85 + i / 1000}
        for i in range(20)
    ]
    rest = [row | {"val_delta_f1": 0.35 + row["number"] / 1000} for row in rest]
    pd.concat([table, pd.DataFrame(rest)]).to_parquet(search / "trials.parquet")
    ax = front.figure(results.read(search)).axes[0]  # beside so many alike, the two differ by more than luck
    (steps,) = [line for line in ax.lines if len(line.get_xdata())]
    assert steps.get_drawstyle() == "steps-pre" and "cannot be told apart" not in words(ax)
    assert len(steps.get_xdata()) == 2 and steps.get_xdata()[0] < 0.84 < steps.get_xdata()[1]


def test_few_configurations_are_shown_as_measured_without_bars(search):
    table = pd.read_parquet(search / "trials.parquet")
    table.loc[3, "status"] = "stopped"
    table.to_parquet(search / "trials.parquet")
    ax = front.figure(results.read(search)).axes[0]
    assert dots(ax) == [(0.8, 0.1), (0.85, 0.35), (0.9, 0.3)]
    assert ax.lines[0].get_xdata().tolist() == [0.8, 0.9] and ax.lines[0].get_ydata().tolist() == [0.1, 0.3]
    assert ax.lines[0].get_drawstyle() == "steps-pre" and words(ax) == ["LoRA", "FairLoRA", "FFT"]
    assert not any(isinstance(each, LineCollection) for each in ax.collections)


def test_a_front_of_three_objectives_has_bars_but_no_line(search):
    table = pd.read_parquet(search / "trials.parquet").assign(val_loss=[0.5, 0.6, 0.7, 0.8, 0.9])
    table.to_parquet(search / "trials.parquet")
    settings = json.loads((search / "search.json").read_text())
    settings |= {
        "objectives": [*settings["objectives"], "val_loss"],
        "directions": ["maximize", "minimize", "minimize"],
    }
    (search / "search.json").write_text(json.dumps(settings))
    ax = front.figure(results.read(search)).axes[0]
    assert not [line for line in ax.lines if len(line.get_xdata())] and "95 % interval: other seeds" in words(ax)
    assert len(dots(ax)) == 4


@pytest.mark.parametrize(
    ("directions", "ha", "va"),
    [(("maximize", "minimize"), "left", "top"), (("minimize", "maximize"), "right", "bottom")],
)
def test_a_number_stands_where_no_point_can(search, directions, ha, va):
    settings = json.loads((search / "search.json").read_text()) | {"directions": list(directions)}
    (search / "search.json").write_text(json.dumps(settings))
    ax = front.figure(results.read(search)).axes[0]
    numbers = [text for text in ax.texts if text.get_text() in ("0", "1")]
    assert len(numbers) == 2
    for text in numbers:
        assert (text.get_ha(), text.get_va()) == (ha, va)
        assert (text.xyann[0] > 0, text.xyann[1] > 0) == (ha == "left", va == "bottom")


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
    values = [0.7, 0.71, 0.72, 0.73, 0.74, 0.1]
    rows = pd.DataFrame({"x_claimed": values, "x_half": np.nan, "on_front": False})
    rows.loc[4, "on_front"] = True
    low, high = front.limits(rows, "x")
    assert 0.6 < low < 0.7 and 0.74 < high < 0.8
    low, high = front.limits(rows.assign(x_half=0.2), "x")  # of its bars the front's alone are drawn
    assert 0.5 < low < 0.54 and 0.94 < high < 1.0
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
    table = pd.read_parquet(search / "trials.parquet").assign(config_id=list("aabbc"), seed=[0, 1, 0, 1, 0])
    table.loc[4, "status"] = "complete"  # its second seed is not there
    table.to_parquet(search / "trials.parquet")
    read = results.read(search)
    rows = configurations.complete(read)  # trials 0 and 1, 2 and 3; the fifth is alone
    assert rows["number"].tolist() == [0, 2] and rows["on_front"].tolist() == [True, False]
    assert rows["val_accuracy"].tolist() == pytest.approx([0.85, 0.475])
    assert rows["val_accuracy_sd"].tolist() == pytest.approx([0.1 / 2**0.5, 0.75 / 2**0.5])
    assert claims.claims(read).rows["val_accuracy_claimed"].tolist() == pytest.approx([0.85, 0.475])
    assert front.figure(read).axes[0].get_title() == "s: 1 of 2 complete configurations on the front"


def test_a_search_whose_name_looks_like_mathematics_is_drawn(search, tmp_path):
    settings = json.loads((search / "search.json").read_text()) | {"name": "$x_{$ <b>"}
    (search / "search.json").write_text(json.dumps(settings))
    figure = front.figure(results.read(search))
    figure.savefig(tmp_path / "front.png")
    assert figure.axes[0].get_title() == "$x_{$ <b>: 2 of 4 complete configurations on the front"
