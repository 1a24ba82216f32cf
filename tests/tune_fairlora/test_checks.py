"""A model check is remembered for exactly what it was made of, and torch is left out where it is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces import resolve
from search_spaces.space import Space
from tests.processes import patience
from tests.weights import saved
from trainables import files
from trainables.config import ConfigError
from trainables.data.store import Manifest, Store, write
from trainables.models import create
from trainables.prepare import datasets
from tune_fairlora.plan import checks
from tune_fairlora.plan.checks import ModelCheckCache


@pytest.fixture
def images(tmp_path_factory) -> Path:
    return datasets.prepare("digits", None, 16)


@pytest.fixture
def cache(tmp_path, monkeypatch, images) -> Path:
    """A new cache folder."""
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def proof(images: Path, given: str | None = "random", space: Space | None = None, **changes) -> ModelCheckCache:
    return ModelCheckCache(space or resolve("digits").with_changes(changes, None), given, Store(images).manifest)


def test_the_literatures_pair_of_objectives_may_be_searched(images):
    checks.check_objectives(("val_adjusted_accuracy", "val_worst_cell_accuracy"), resolve("digits"), Store(images))


def test_an_adjusted_accuracy_without_training_images_is_no_objective(images):
    store = Store(images)
    store.split = np.where(store.split == "train", "test", store.split)
    checks.check_objectives(("val_worst_cell_accuracy",), resolve("digits"), store)
    with pytest.raises(ConfigError, match="val_adjusted_accuracy has no value"):
        checks.check_objectives(("val_adjusted_accuracy",), resolve("digits"), store)


def test_what_was_noted_of_the_images_is_printed_when_a_search_begins(tmp_path, capsys):
    """Identical images, near copies, and few subjects; other notes are the manifest's alone."""
    said = {"overlap": "1 subject(s) …", "copies": "3 image(s) …", "near_copies": "2 image(s) look …", "images": 8}
    pixels, subject = np.zeros((8, 4, 4, 3), np.uint8), np.array([0, 0, 0, 0, 1, 1, -1, -1])
    rows = zip(pixels, [0, 1] * 4, [0] * 8, ["train"] * 4 + ["val"] * 4)
    write(tmp_path / "s.arrow", Manifest("toy", 4, ["a", "b"], ["all"], notes=said), rows, subject)
    checks.print_notes(Store(tmp_path / "s.arrow"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["note: 1 subject(s) …", "note: 3 image(s) …", "note: 2 image(s) look …"]
    assert "the smallest class has 2 validation images" in lines[3]
    assert "the 2 validation images of class a are of 2 subject(s)" in lines[4] and len(lines) == 5


def test_a_proof_is_known_afterwards_and_not_made_again(cache, images, monkeypatch):
    assert not proof(images).known
    assert proof(images).source(images) == "random"
    monkeypatch.setattr(checks, "check_weights", lambda *_: pytest.fail("proved again"))
    assert proof(images).known and proof(images).source(images) == "random"
    assert proof(images, lr="0.01", epochs="3").known  # on which no model depends


@pytest.mark.parametrize("changes", [{"rank": "3"}, {"targets": "qv"}, {"dropout": "0.1"}])
def test_another_model_wants_a_proof_of_its_own(cache, images, changes):
    proof(images).source(images)
    assert not proof(images, **changes).known


def test_other_classes_methods_libraries_and_code_want_one_too(cache, images, monkeypatch, tmp_path):
    proof(images).source(images)
    kept = Store(images).manifest
    assert not ModelCheckCache(resolve("digits"), "random", Manifest("d", 16, [*kept.classes, "10"], kept.groups)).known
    assert not proof(images, space=resolve("digits").with_changes({}, ("lora",))).known
    with monkeypatch.context() as patch:
        patch.setattr(checks, "version", lambda name: "9.9")
        assert not proof(images).known
    (tmp_path / "code").mkdir()
    monkeypatch.setattr(checks, "CORE", tmp_path / "code")
    assert not proof(images).known


def test_weights_are_known_by_their_content(cache, images, tmp_path):
    file = Path(saved(create.create("vit_nano", 16).state_dict(), tmp_path / "w.safetensors"))
    assert proof(images, str(file)).source(images) == str(file)
    assert proof(images, str(file)).known
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not proof(images, str(file)).known
    file.write_bytes(content[: len(content) // 2])
    create.load.cache_clear()  # as in another process
    with pytest.raises(ConfigError, match="corrupt or no weights file"):
        proof(images, str(file)).source(images)
    assert len(list(cache.glob("model-check-*"))) == 1  # what does not fit leaves nothing behind


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"source": "/no/such/file", "sha256": ""}', "\x00"])
def test_a_damaged_file_is_no_proof(cache, images, content):
    proof(images).source(images)
    next(cache.glob("model-check-*")).write_text(content)
    assert not proof(images).known
    assert proof(images).source(images) == "random" and proof(images).known


def test_without_a_cache_folder_nothing_is_kept_and_all_is_proved(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        made = proof(images)
        assert not made.known and made.source(images) == "random"


def test_what_a_proof_cannot_hold_is_checked_each_time(cache, images):
    """Room on the disk for kept outputs; class names to be read; the hub's weights."""
    assert proof(images, last_blocks="1")._file is None
    zeroshot = resolve("folder_clip").with_changes({"head": "zeroshot"}, ("lora",))
    assert proof(images, space=zeroshot)._file is None
    assert proof(images, given=None, space=resolve("folder_vit_tiny"))._file is None


PLAN = """
import json, sys
from tune_fairlora.plan.search_options import SearchOptions
from tune_fairlora.plan.plan import make_plan
options = SearchOptions(space="digits", weights="random", storage=sys.argv[1])
asked = []
from tune_fairlora.execution.terminal import Bars
plan = make_plan(options, Bars().images, lambda options, trials, models: asked.append(models))
plan.settings()
import tune_fairlora.execution.ray_executor, tune_fairlora.tracking.tracker
print(json.dumps({"models": asked, "torch": "torch" in sys.modules}))
"""


def test_a_search_whose_model_is_known_never_imports_torch(cache, images, tmp_path):
    """Neither its plan nor its settings, nor what carries it out."""
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, timeout=patience(200)
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found == [{"models": [True], "torch": True}, {"models": [False], "torch": False}]
    assert files.cache_folder() == cache
