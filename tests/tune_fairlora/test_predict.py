"""A model out of the house names images, judges folders, and is never run as code."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.weights import saved
from trainables.config import TrainConfig
from trainables.export import load, write
from trainables.export.predict import open_model
from trainables.metrics import METRICS, evaluate
from trainables.models.adapters import adapt
from trainables.models.create import fresh_model
from trainables.models.forward import forward
from trainables.prepare.decode import decode
from tune_fairlora import cli

CLASSES, GROUPS = ["red", "=cmd()", "<script>alert(1)</script>"], ["day", "night"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An adapter whose head tells red from green from blue by the mean colour, which its features hold."""
    folder, config = tmp_path_factory.mktemp("models") / "m", TrainConfig(rank=2)
    folder.mkdir()
    made = adapt(fresh_model(config, CLASSES, None), config)
    with torch.no_grad():
        made.head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(4))
    write.write(folder, made, config, CLASSES, None, {"banner": 0, "sizes": [16]}, {"groups": GROUPS})
    return folder


@pytest.fixture
def photos(tmp_path):
    """Twelve images and a text that calls itself one; labels, groups and splits in metadata.csv."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "12.png").write_text("no image")
    return table(folder)


def table(folder, columns="file_path,label_name,group_name,split", **changes):
    """``changes``: a column's value in every row."""
    lines = [columns]
    for i in range(13):
        row = {"file_path": f"{i}.png", "label_name": CLASSES[i % 3], "group_name": GROUPS[i % 2]}
        row |= {"split": "train" if i < 4 else "val"}
        row |= {"label": row["label_name"], "group": row["group_name"]} | changes
        lines.append(",".join(row[name] for name in columns.split(",")))
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(model, *argv) -> int:
    return cli.main(["predict", "--model", str(model), *map(str, argv)])


def test_an_image_is_named_with_its_probability(model, photos, capsys):
    files = [photos / f"{i}.png" for i in range(3)]
    assert run(model, *files) == 0
    lines = capsys.readouterr().out.splitlines()
    opened = open_model(model, None)
    expected = opened.predict(files).probability
    for line, file, p in zip(lines, files, expected, strict=True):
        name, cell = line.removeprefix(str(file)).rsplit(maxsplit=1)
        assert name.strip() == CLASSES[p.argmax()] and float(cell) == pytest.approx(p.max(), abs=6e-5)
    assert len({line.rindex(" ") for line in lines}) == 1  # aligned


def test_machines_get_every_probability_and_people_as_many_as_they_ask_for(model, photos, capsys):
    assert run(model, photos / "0.png", "--json") == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["file"] == str(photos / "0.png") and set(made["probabilities"]) == set(CLASSES)
    assert sum(made["probabilities"].values()) == pytest.approx(1)
    values = list(made["probabilities"].values())
    assert values == sorted(values, reverse=True) and made["class"] == next(iter(made["probabilities"]))
    assert run(model, photos / "0.png", "--top", 2) == 0
    line = capsys.readouterr().out
    assert all(name in line for name in list(made["probabilities"])[:2]) and f"{values[1]:.4f}" in line
    assert list(made["probabilities"])[2] not in line


def test_a_labelled_folder_is_judged_as_a_search_judges_its_split(model, photos, capsys):
    assert run(model, photos, "--split", "val", "--json") == 1  # one image is none
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert err == f"1 image(s) could not be read: {photos / '12.png'}\n"
    assert made["images"] == 8 and made["unreadable"] == [str(photos / "12.png")]
    logits = open_model(model, None).predict([photos / f"{i}.png" for i in range(4, 12)]).logits
    label, group = np.arange(4, 12) % 3, np.arange(4, 12) % 2
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label), reduction="none").numpy()
    expected = evaluate(label, logits.argmax(1).numpy(), loss, group, n_classes=3, n_groups=2)
    for name in METRICS:
        half = 2**-9 if "loss" in name else 0  # logits are measured in half precision
        value = math.nan if made["metrics"][name] is None else made["metrics"][name]
        assert value == pytest.approx(expected.metrics[name], rel=half, abs=1e-6, nan_ok=True)
    assert [row["name"] for row in made["by_group"]] == GROUPS and [row["name"] for row in made["by_class"]] == CLASSES
    assert [row["accuracy"] for row in made["by_group"]] == expected.by_group["accuracy"].tolist()
    assert made["confusion"] == expected.confusion.tolist() and np.sum(made["confusion"]) == 8


def test_people_get_tables_and_a_word_on_training_images(model, photos, capsys):
    assert run(model, photos) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{photos}: 12 images\n") and "delta_f1" in out
    assert "worst_cell_accuracy" in out and "adjusted_accuracy" not in out  # of which training shares?
    assert "note: 4 rows are of the split train" in err and "\x1b" not in out
    head, *rows = (line for line in out.split("\n\n")[1].splitlines())
    assert head.split() == ["group", "count", "accuracy", "macro_f1", "eod", "odds_gap"]
    assert [row.split()[:2] for row in rows] == [["day", "6"], ["night", "6"]]
    assert len({len(line) for line in (head, *rows)}) == 1
    assert "<script>alert(1)</script>" in out and "=cmd()" in out


def test_labels_and_groups_need_no_names_of_their_own_and_new_groups_come_last(model, photos, capsys):
    table(photos, "file_path,label,group", group="dusk")
    assert run(model, photos, "--json") == 1
    made = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in made["by_group"]] == ["dusk"] and made["images"] == 12
    assert made["metrics"]["delta_group_accuracy"] is None  # one group has no gap
    table(photos, "file_path,label")
    assert run(model, photos, "--json") == 1
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["by_group"]] == ["all"]


def test_a_mistake_is_one_line(model, photos, tmp_path, capsys):
    def refused(*argv, where=model) -> str:
        assert run(where, *argv) == 2
        out, err = capsys.readouterr()
        assert err.count("\n") == 1 and not out
        return err

    image = photos / "0.png"
    assert "every IMAGE must be a file, but /none.png does not exist" in refused("/none.png", image)
    assert "either images or one folder must be given" in refused(image, photos)
    assert "--split goes with a folder that has metadata.csv" in refused(image, "--split", "val")
    assert f"no image could be read: {photos / '12.png'}" in refused(photos / "12.png")
    assert "--split must be one of those in" in refused(photos, "--split", "dev")
    assert "must be an exported model with a sound model.json, but: FileNotFound" in refused(image, where=tmp_path)
    assert "must be a whole export" in refused(image, where=image)
    (tmp_path / "empty").mkdir()
    assert "must hold a metadata.csv" in refused(tmp_path / "empty")
    table(photos, label_name="purple")
    assert "every label_name must be one of the model's classes, but 'purple' is none" in refused(photos)
    table(photos, "file_path,group_name")
    assert "must have the column label or label_name, but has file_path, group_name" in refused(photos)
    table(photos, file_path="../../x.png")
    assert "file_path must stay inside the folder" in refused(photos)
    assert "argument --top: a number >= 1, whole must be given" in refused(image, "--top", "0")


def test_an_adapter_of_a_users_file_asks_for_it(tmp_path, capsys, photos):
    config = TrainConfig(backbone="vit_tiny", image_size=32)
    weights = saved(fresh_model(config, CLASSES, "random").state_dict(), tmp_path / "theirs.safetensors")
    folder = tmp_path / "m"
    folder.mkdir()
    made = adapt(fresh_model(config, CLASSES, weights), config)
    write.write(folder, made, config, CLASSES, weights, {"banner": 0, "sizes": [32]}, {"groups": GROUPS})
    assert run(folder, photos / "0.png") == 2
    assert "holds an adapter alone: pass --weights, the file theirs.safetensors with sha256" in capsys.readouterr().err
    assert run(folder, photos / "0.png", "--weights", weights) == 0
    assert run(folder, photos / "0.png", "--weights", photos / "0.png") == 2
    assert "is another file" in capsys.readouterr().err


def test_nothing_that_lies_in_the_folder_is_run(model, tmp_path, photos, capsys):
    """Neither its load.py, nor a module that its files name, nor a pickle."""
    folder, witness = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    code = f"open({str(witness)!r}, 'w').close()\n"
    for name in ("load.py", "trainables.py", "megatron.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"megatron_core": "megatron", "megatron_config": {"x": 1}, "auto_mapping": {"parent_library": "megatron"}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert run(folder, photos / "0.png") == 0 and not witness.exists()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert run(folder, photos / "0.png") == 2
    facts = load.read_facts(model)
    facts["classes"] = facts["classes"][:2]
    (folder / "model.json").write_text(json.dumps(facts))
    (folder / "adapter_model.safetensors").write_bytes((model / "adapter_model.safetensors").read_bytes())
    assert run(folder, photos / "0.png") == 2
    assert "must fit its architecture, but head.bias does not" in capsys.readouterr().err
    (folder / "adapter_model.safetensors").write_bytes(b"torn")
    assert run(folder, photos / "0.png") == 2 and not witness.exists()
    assert all(line.startswith("error: --model ") for line in capsys.readouterr().err.splitlines())


def test_images_of_a_half_precision_trial_are_seen_in_half_precision(tmp_path, photos):
    config = TrainConfig(rank=2, dtype="bfloat16")
    made = adapt(fresh_model(config, CLASSES, None), config)
    (tmp_path / "m").mkdir()
    write.write(tmp_path / "m", made, config, CLASSES, None, {"banner": 0, "sizes": [16]}, {"groups": GROUPS})
    opened, file = open_model(tmp_path / "m", None), photos / "0.png"
    pixels = torch.from_numpy(np.array(decode(file, 16))).permute(2, 0, 1)[None].float().div(255)
    with torch.inference_mode():
        logits, half = opened.predict([file]).logits, forward(made.eval(), pixels, config).float()
        exact = forward(made, pixels, TrainConfig(rank=2))
    # Two code paths may each be a rounding of bfloat16's, 2^-9, off in every block; and what comes out is of its type.
    torch.testing.assert_close(logits, half, rtol=0, atol=4 * 2**-9 * exact.abs().max().item())
    assert torch.equal(logits, logits.bfloat16().float()) and not torch.equal(exact, exact.bfloat16().float())
