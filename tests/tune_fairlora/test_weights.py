"""What a search says of its weights before it starts, and FairLoRA's table 5 out of ``--describe``."""

import pytest

from search_spaces import resolve
from trainables.data.store import Manifest
from trainables.models import zeroshot
from trainables.prepare import datasets
from tune_fairlora import cli
from tune_fairlora.plan.checks import ModelCheckCache, check_weights


def test_random_weights_are_announced_and_passed_on(capsys, tmp_path, monkeypatch):
    """Also where they were proved before."""
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path))
    manifest = Manifest("digits", 16, list("0123456789"), ["a", "b"])
    first = ModelCheckCache(resolve("digits"), "random", manifest)
    assert not first.known and first.source(datasets.prepare("digits", None, 16)) == "random"
    capsys.readouterr()
    again = ModelCheckCache(resolve("digits"), "random", manifest)
    assert again.known and again.source(tmp_path / "not asked for") == "random"
    line = capsys.readouterr().out
    assert line.startswith("note: vit_nano has random weights") and line.count("\n") == 1


def test_reading_class_names_is_announced_once(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path))
    zeroshot.parts.cache_clear()
    space = resolve("folder_clip").with_changes({"head": "zeroshot"}, ("lora",), image_size=32)
    for announced in (True, False):
        check_weights(space, "random", ["cat"])
        assert ("reading 1 class names with CLIP's text tower" in capsys.readouterr().out) == announced


@pytest.mark.parametrize(
    ("space", "lines"),
    [
        ("geode_dino", ["rank 8: 325,672 of 86,155,088 parameters"]),
        (
            "aircraft_dino",
            ["rank 16: 666,724 of", "rank 32: 1,256,548 of", "rank 64: 2,436,196", "rank 128: 4,795,492"],
        ),
    ],
)
def test_table_5_comes_out_of_describe(capsys, space, lines):
    assert cli.main(["search", "--space", space, "--describe"]) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in lines)
