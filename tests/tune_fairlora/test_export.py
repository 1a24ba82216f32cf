"""From a finished search to a folder: the right trial, the right numbers, and names that run nowhere."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

import tune_fairlora as tf
from tests.processes import refusal
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.batches import open_data
from trainables.export import load
from trainables.models.forward import forward
from trainables.prepare import datasets
from trainables.prepare.make import Request, prepare_into
from trainables.training.fit import fit, trained_state
from trainables.trial.checkpoints import save_weights, trial_folder
from trainables.trial.trial import tables
from tune_fairlora import cli
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.tables import render
from tune_fairlora.reporting import model_card

SCRIPT, FORMULA, PIPE = "<script>alert(1)</script>", "=cmd()", "a|b\x1b[31m*c*`d`"
CLASSES = [FORMULA, SCRIPT, PIPE]
GROUPS = ["=day()", "<b>night"]
FIXED = {"data": "folder", "batch_size": 16, "epochs": 1, "flip": False, "crop": 1.0, "lr": 5e-3}
CONFIGS = [TrainConfig(rank=4, targets="qv", **FIXED), TrainConfig(method="fft", **FIXED), TrainConfig(rank=2, **FIXED)]
OBJECTIVES = ["val_accuracy", "val_delta_f1"]


def pictures(folder) -> None:
    """Sixty images of three classes (red, green or blue) in two groups, with a metadata.csv that has splits."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
        pixels[..., i % 3] += 90
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        split = ("train", "train", "val", "test")[i // 6 % 4]
        rows.append([f"{i:02d}.png", CLASSES[i % 3], GROUPS[i // 3 % 2], split])
    columns = ["file_path", "label_name", "group_name", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)


def begun(folder, store, options) -> Record:
    (folder / "trials").mkdir(parents=True)
    seen = batches.open_data(store)
    settings = {
        "id": "0123456789abcdef", "format": 2, "name": folder.name, "objectives": OBJECTIVES, "space": "mine",
        "directions": ["maximize", "minimize"], "store": str(store), "weights_file": "", "weights": "hub",
        "data": "folder", "data_notes": seen.manifest.notes, "data_fingerprint": seen.manifest.fingerprint,
        "groups": seen.manifest.groups, "classes": seen.manifest.classes, "collapse_floor": 0.0, "options": options,
    }  # fmt: skip
    (folder / "search.json").write_text(json.dumps(settings))
    record = Record(folder)
    record.add("search", settings=settings)
    return record


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "<i>photos"
    pictures(folder)
    return folder


@pytest.fixture(scope="module")
def search(tmp_path_factory, photos):
    """A finished search as a real one leaves it: trials 0 (LoRA) and 1 (FFT) with their weights, 2 complete without,
    3 failed; and the models of the first two."""
    folder, models = tmp_path_factory.mktemp("runs") / "=run()", []
    store = datasets.prepare("folder", photos, 16)
    record = begun(folder, store, {"data": str(photos)})
    for number, config in enumerate([*CONFIGS, CONFIGS[0]]):
        values = config.hyperparameters()
        record.add("start", number=number, values=values, config_id=config.config_id, seed=0)
        if number == 3:
            record.add("end", number=3, status="failed", reason="x", tables={})
            continue
        for epoch in fit(config, batches.open_data(store)):
            metrics = epoch.metrics | dict(zip(OBJECTIVES, [(0.6, 0.1), (0.9, 0.4), (0.5, 0.5)][number]))
            record.add("epoch", number=number, epoch=epoch.number, metrics=metrics, seconds=1.0)
        record.add("end", number=number, status="complete", reason="", tables=tables(epoch.evaluation))
        models.append(epoch.trainer.model.eval())
        if number < 2:
            save_weights(trial_folder(folder, number), trained_state(models[number]), values)
    record.add("close", status="complete")
    render(record)
    record.close()
    return folder, models


def run(folder, *argv) -> int:
    return cli.main(["export", "--search", str(folder), *map(str, argv)])


@pytest.mark.parametrize(("number", "merge"), [(0, False), (0, True), (1, False)])
def test_an_exported_trial_names_files_as_it_named_the_stores_images(search, photos, tmp_path, capsys, number, merge):
    folder, models = search
    out = tmp_path / "new" / "model"
    assert run(folder, "--trial", number, "--out", out, *["--merge"] * merge) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"trial {number} is in {out} (") and line.count("\n") == 1
    assert [path.name for path in out.parent.iterdir()] == ["model"]  # nothing half-way beside it
    store = open_data(json.loads((folder / "search.json").read_text())["store"]).val.store
    images = torch.from_numpy(store.images(np.arange(60))).permute(0, 3, 1, 2).float().div(255)
    with torch.inference_mode():
        expected = forward(models[number], images, CONFIGS[number])
    from trainables.export.predict import open_model

    files = [photos / f"{i:02d}.png" for i in range(60)]
    made = open_model(out, None).predict(files)
    assert made.index == list(range(60)) and not made.failed
    torch.testing.assert_close(made.logits, expected, rtol=0, atol=1e-5)
    assert made.logits.std() > 1e-3  # a hundred tolerances: it names images, and not each alike


@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_predicts_as_its_export_does(search, photos, tmp_path, number):
    trial = tf.open(search[0]).trial(number)
    (tmp_path / "none.png").write_text("no image")
    files = [photos / "00.png", tmp_path / "none.png", photos / "01.png"]
    table, export = trial.predict(files), trial.export(tmp_path / "m")
    from trainables.export.predict import open_model

    model = open_model(export, None)
    expected = model.predict(files).probability
    assert table["file"].tolist() == list(map(str, files)) and export.folder == tmp_path / "m"
    names = [f"probability[{name}]" for name in model.classes]
    assert np.allclose(table.loc[[0, 2], names], expected, atol=1e-5) and table.loc[1, names].isna().all()
    assert table.loc[[0, 2], "class"].tolist() == [model.classes[i] for i in expected.argmax(axis=1)]
    assert pd.isna(table.loc[1, "class"])
    assert table.loc[[0, 2], "probability"].tolist() == table.loc[[0, 2], names].max(axis=1).tolist()
    assert trial.predict(files[0])["class"].tolist() == table["class"].tolist()[:1]
    assert refusal(trial.predict, "x.png") == "every image must be a file, but x.png does not exist"


def test_model_json_says_what_it_is_and_where_it_comes_from(search, tmp_path):
    assert run(search[0], "--trial", 0, "--out", tmp_path) == 0  # an empty folder is taken
    facts = load.read_facts(tmp_path)
    assert facts["classes"] == sorted(CLASSES) == batches.open_data(search_store(search[0])).manifest.classes
    assert facts["groups"] == sorted(GROUPS)
    assert facts["search"] == {"id": "0123456789abcdef", "name": "=run()", "space": "mine", "code_version": ""}
    assert facts["trial"] == {"number": 0, "seed": 0, "config_id": CONFIGS[0].config_id}
    assert facts["config"] == CONFIGS[0].hyperparameters() and facts["backbone"] == "vit_nano"
    assert facts["preprocessing"] == {"banner": 0, "sizes": [16], "mean": [0.5] * 3, "std": [0.5] * 3}
    assert (tmp_path / "load.py").read_bytes() == Path(load.__file__).read_bytes()


def search_store(folder) -> str:
    return json.loads((folder / "search.json").read_text())["store"]


def test_names_out_of_the_users_data_run_nowhere(search, tmp_path, capsys, photos):
    assert run(search[0], "--trial", 0, "--out", tmp_path / "m") == 0
    text = (tmp_path / "m/README.md").read_text()
    assert "<script" not in text and "<b>" not in text and "<i>" not in text and "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    _, front, body = text.split("---\n", 2)
    known = yaml.safe_load(front)
    assert known["library_name"] == "peft" and known["model-index"][0]["name"] == "=run(), trial 0"
    assert known["model-index"][0]["results"][0]["dataset"]["name"] == "folder (<i>photos)"
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(len(row.replace("\\|", "").split("|")) in (4, 5, 6, 7, 8) for row in rows)
    of_pipe = next(row for row in rows if "b\\\\x1b" in row and row.startswith("| a"))
    assert len(of_pipe.replace("\\|", "").split("|")) == 8  # its pipe parts no cells
    assert cli.main(["predict", "--model", str(tmp_path / "m"), str(photos), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and SCRIPT in out and FORMULA in out and "\\x1b[31m" in out


def test_metrics_json_has_the_trials_numbers_by_class_and_group(search, tmp_path):
    folder, _ = search
    assert run(folder, "--trial", 1, "--out", tmp_path) == 0
    made = json.loads((tmp_path / "metrics.json").read_text())
    row = pd.read_parquet(folder / "trials.parquet").set_index("number").loc[1]
    for name, value in made["validation"]["metrics"].items():
        expected = row[f"val_{name}"]
        assert value is None if math.isnan(expected) else value == expected
    assert [each["name"] for each in made["validation"]["by_group"]] == sorted(GROUPS)
    assert [each["accuracy"] for each in made["validation"]["by_group"]] == [
        row[f"val_group_accuracy[{name}]"] for name in sorted(GROUPS)
    ]
    by_class = made["validation"]["by_class"]
    assert sum(each["count"] for each in by_class) == np.sum(made["validation"]["confusion"]) == 12
    assert made["front"]["member"] and [point["trials"] for point in made["front"]["points"]] == [[1], [0]]
    assert made["front"]["points"][0]["val_accuracy"] == 0.9
    assert made["test"] is None and "No test split was measured" in (tmp_path / "README.md").read_text()
    text = (tmp_path / "README.md").read_text()
    assert "| 1 | 0.9000 | 0.4000 |" in text and "These numbers chose the model" in text
    assert "the user's own images" in text


HUB = {"kind": "hub", "repository": "timm/vit_tiny_patch16_224.x", "file": "model.safetensors", "sha256": ""}
PLAIN = 'timm.create_model("vit_tiny_patch16_224.x", pretrained=True, num_classes=3, img_size=112)'


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"base": HUB}, ['library_name: "peft"', 'base_model: "timm/vit_tiny_patch16_224.x"', PLAIN, "load()"]),
        (
            {"base": {"kind": "file", "file": "<b>.pt", "sha256": "abc"}},
            ["&lt;b&gt;.pt (sha256 abc)", 'load(base_weights="FILE")'],
        ),
        ({"weights": "whole", "base": HUB}, ['timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=112)']),
        (
            {"weights": "whole", "architecture": {"zeroshot": 512, "options": {}}},
            ["its normalised head is none of timm's"],
        ),
        ({"preprocessing": {"banner": 20, "sizes": [256, 224]}}, ["lowest 20 rows", "256 and then 224 px"]),
        ({"pretrained": "random"}, ["a trial of the machinery, no model"]),
    ],
)
def test_the_card_says_what_the_weights_need(search, tmp_path, changes, expected):
    assert run(search[0], "--trial", 0, "--out", tmp_path) == 0
    facts, made = (json.loads((tmp_path / name).read_text()) for name in ("model.json", "metrics.json"))
    architecture = {"name": "vit_tiny_patch16_224", "options": {"img_size": 112}, "zeroshot": 0}
    facts |= {"pretrained": "vit_tiny_patch16_224.x", "architecture": architecture} | changes
    settings = json.loads((search[0] / "search.json").read_text())
    text = model_card.text(facts, made, settings)
    assert all(part in text for part in expected)
    assert ("base_model" in text) == (facts["base"] is HUB)


def test_what_confirm_measured_stands_beside_under_its_own_name(search, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(search[0], folder)
    rows = [
        {"number": n, "trained_on": on, "test_accuracy": accuracy, f"test_group_accuracy[{GROUPS[0]}]": 0.25}
        for n, on, accuracy in ((0, "train", 0.1111), (1, "train", 0.2222), (1, "trainval", 0.3333))
    ]
    pd.DataFrame(rows).to_parquet(folder / "confirmed.parquet")
    assert run(folder, "--trial", 1, "--out", tmp_path / "m") == 0
    made = json.loads((tmp_path / "m/metrics.json").read_text())
    assert made["test"]["metrics"]["accuracy"] == 0.2222 and made["test"]["metrics"]["delta_f1"] is None
    assert made["test"]["by_group"] == [{"name": GROUPS[1], "accuracy": None}, {"name": GROUPS[0], "accuracy": 0.25}]
    text = (tmp_path / "m/README.md").read_text()
    sections = dict(section.split("\n", 1) for section in text.split("\n## ")[1:])  # others hold what training reached
    first, second = "Test split", "Test split, another model: trained anew on train and val"
    assert [title for title in sections if title.startswith("Test")] == [first, second]
    for title, accuracy in ((first, "0.2222"), (second, "0.3333")):
        assert [n for n in ("0.1111", "0.2222", "0.3333") if n in sections[title]] == [accuracy]


@pytest.mark.parametrize(
    ("rule", "number", "why"),
    [
        ("accuracy", 1, "accuracy: trial 1 has the best val_accuracy (0.9000"),
        ("fairness", 0, "fairness: trial 0 has the best val_delta_f1 (0.1000"),
        ("knee", 0, "knee: trial 0 is the first of the front's two points, and nothing is known"),
        ("val_accuracy>=0.7 then val_delta_f1", 1, "of the 1 complete configurations with val_accuracy>=0.7"),
    ],
)
def test_a_rule_takes_the_place_of_a_number_and_says_why(search, tmp_path, capsys, rule, number, why):
    assert run(search[0], "--pick", rule, "--out", tmp_path / "m") == 0
    assert why in capsys.readouterr().out.splitlines()[0]
    assert load.read_facts(tmp_path / "m")["trial"]["number"] == number
    assert why in json.loads((tmp_path / "m/metrics.json").read_text())["chosen"]
    assert "Chosen by rule: " in (tmp_path / "m/README.md").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--trial", "7"], "--trial must be one of the search's 4, but 7 does not exist"),
        (["--trial", "3"], "--trial must be a complete trial, but trial 3 is failed"),
        (["--trial", "2"], "trial 2 has no saved weights, as a search keeps those of its front and its rivals: take"),
        (["--trial", "x"], "argument --trial: a number >= 0, whole must be given, but got x"),
        ([], "one of the arguments --trial --pick is required"),
        (["--trial", "0", "--pick", "knee"], "argument --pick: not allowed with argument --trial"),
        (["--pick", "best"], "a rule to pick by is knee, accuracy, fairness, or like"),
        (["--pick", "val_accuracy>=0.95 then val_delta_f1"], "trial 1 comes closest with 0.9000"),
        (["--pick", "val_accuracy<=0.5 then val_accuracy"], "trial 2 has no saved weights"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(search, tmp_path, capsys, argv, message):
    assert run(search[0], *argv, "--out", tmp_path / "m") == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_out_that_is_not_empty_is_left_as_it_is(search, tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "kept.txt", tmp_path / "kept.txt/below"):
        assert run(search[0], "--trial", 0, "--out", out) == 2
        assert capsys.readouterr().err.startswith("error: --out must ")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert run(search[0], "--trial", 0) == 0
    assert (search[0] / "exports/0000/adapter_config.json").is_file()
    assert run(search[0], "--trial", 0) == 2 and "new or an empty folder" in capsys.readouterr().err
    shutil.rmtree(search[0] / "exports")


def test_a_search_that_is_none_open_torn_or_of_other_weights_is_refused(search, tmp_path, capsys):
    def refused(folder, *argv) -> str:
        assert run(folder, *(argv or ["--trial", 0]), "--out", tmp_path / "m") == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and not (tmp_path / "m").exists()
        return err

    assert "must be a search in runs or its folder; there are:" in refused("nothing")
    assert "must be the folder of a search, but has no events.jsonl" in refused(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(search[0], folder)
    saved = folder / "trials/0000/model.safetensors"
    state = safetensors.torch.load_file(saved)
    safetensors.torch.save_file(state | {"head.weight": torch.zeros(9, 64)}, saved)
    assert "must hold the weights that its trial trained, but holds others; choose another trial" in refused(folder)
    saved.write_bytes(saved.read_bytes()[:-100])
    assert "must be whole, but" in refused(folder)
    settings = json.loads((folder / "search.json").read_text())
    (folder / "search.json").write_text(json.dumps(settings | {"weights_file": str(tmp_path / "gone.pt")}))
    assert "the search's weights are gone" in refused(folder)
    log = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(log[:-1]))
    assert "must be over before a trial is exported, but is still open" in refused(folder)


def test_a_full_disk_leaves_nothing_behind(search, small_disk, capsys):
    (small_disk / "filler").write_bytes(bytes(1_700_000))
    assert run(search[0], "--trial", 1, "--out", small_disk / "m") == 2
    err = capsys.readouterr().err
    assert "could not be written" in err and err.count("\n") == 1
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_store_that_was_resized_twice_is_followed_twice(search, photos, tmp_path, capsys):
    """A prepared folder at 18 px, searched at 16: its images are bicubic twice, and so is what the export does."""
    _, models = search
    prepare_into(Request("folder", photos, tmp_path / "prepared", 18, 1), lambda *_: None, lambda *_: None)
    store = datasets.prepare("folder", tmp_path / "prepared", 16)
    record = begun(tmp_path / "run", store, {"data": str(tmp_path / "prepared")})
    record.add("start", number=0, values=CONFIGS[1].hyperparameters(), config_id=CONFIGS[1].config_id, seed=0)
    metrics = dict.fromkeys([*OBJECTIVES, "val_mean_recall"], 0.5)
    record.add("epoch", number=0, epoch=1, metrics=metrics, seconds=1.0)
    record.add("end", number=0, status="complete", reason="", tables={})
    record.add("close", status="complete")
    save_weights(trial_folder(tmp_path / "run", 0), trained_state(models[1]), CONFIGS[1].hyperparameters())
    render(record)
    record.close()
    assert run(tmp_path / "run", "--trial", 0, "--out", tmp_path / "m") == 0
    how = load.read_facts(tmp_path / "m")["preprocessing"]
    assert how["sizes"] == [18, 16]
    kept = batches.open_data(store).val.store
    for i in range(0, 60, 7):
        with Image.open(photos / f"{i:02d}.png") as image:
            assert np.array_equal(load.pixels(image, how), kept.images(np.array([i]))[0])
    shutil.rmtree(tmp_path / "prepared")
    assert run(tmp_path / "run", "--trial", 0, "--out", tmp_path / "again") == 2
    assert "the prepared images are gone from" in capsys.readouterr().err
