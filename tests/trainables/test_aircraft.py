"""FGVC-Aircraft: names with slashes and spaces, ids with zeros, official splits, one line for each damage."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import damaged, drawn
from trainables.prepare import aircraft
from trainables.prepare.decode import decode

VARIANTS = ["Zeppelin NT", "F/A-18", "707-320"]
MAKERS = ["Zeppelin", "McDonnell Douglas", "Boeing"]
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """One drawn distribution; who changes it makes their own."""
    return drawn.draw_aircraft(tmp_path_factory.mktemp("aircraft"))


def small(folder: Path) -> Path:
    """Three variants, one image of each in each split, no pixels."""
    data = folder / "data"
    (data / "images").mkdir(parents=True, exist_ok=True)
    texts = {"variants": VARIANTS, "manufacturers": MAKERS}
    for s, split in enumerate(SPLITS):
        ids = [f"00{s}{i}" for i in range(3)]
        for kind, names in (("variant", VARIANTS), ("manufacturer", MAKERS)):
            texts[f"images_{kind}_{split}"] = [f"{image} {name}" for image, name in zip(ids, names)]
    texts["images_variant_trainval"] = texts["images_variant_train"] + texts["images_variant_val"]
    for name, lines in texts.items():
        (data / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    message = damaged.outcome(aircraft.read, folder)
    assert isinstance(message, str)
    return message


def test_the_drawn_distribution(official):
    listing = aircraft.read(official)
    damaged.check(listing, official)
    assert listing.classes == drawn.variants() and listing.groups == list(drawn.MAKERS)
    assert Counter(listing.split.tolist()) == dict.fromkeys(SPLITS, 200)
    assert listing.banner == 20 and listing.positive is None and all(file.is_file() for file in listing.files)
    assert np.array_equal(listing.group, listing.label // 10)
    assert any(" " in name for name in listing.classes) and any("/" in name for name in listing.classes)
    assert all(len(file.stem) == 7 for file in listing.files) and any(file.stem[0] == "0" for file in listing.files)
    assert "classes_expected" not in listing.notes and listing.notes["groups"] == "manufacturer"


def test_the_banner_is_what_the_parser_cuts_off(official):
    listing = aircraft.read(official)
    whole, cut = (decode(listing.files[0], 64, banner) for banner in (0, listing.banner))
    share = [((image < 40) | (image > 215)).all(axis=2)[-8:].mean() for image in (whole, cut)]
    assert share[0] > 0.25 and share[1] < 0.1


def test_labels_are_lines_and_ids_keep_their_zeros(tmp_path):
    listing = aircraft.read(small(tmp_path))
    assert listing.classes == VARIANTS and listing.label.tolist() == [0, 1, 2] * 3
    assert [file.name for file in listing.files[:4]] == ["0000.jpg", "0001.jpg", "0002.jpg", "0010.jpg"]
    assert listing.split.tolist() == [split for split in SPLITS for _ in range(3)]
    assert listing.notes["classes_expected"] == 100


def test_without_manufacturers_there_is_one_group(tmp_path):
    for path in (small(tmp_path) / "data").glob("*manufacturer*"):
        path.unlink()
    listing = aircraft.read(tmp_path)
    assert listing.groups == ["all"] and not listing.group.any() and len(listing.group) == 9
    assert listing.notes["groups"] == "none: the manufacturers' files are missing"


def test_trainval_may_be_missing(tmp_path):
    (small(tmp_path) / "data/images_variant_trainval.txt").unlink()
    assert len(aircraft.read(tmp_path).files) == 9


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n \n", lambda b: b[:-1],
])  # fmt: skip
def test_harmless_differences_change_nothing(tmp_path, change):
    good = aircraft.read(small(tmp_path))
    for path in (tmp_path / "data").glob("*.txt"):
        path.write_bytes(change(path.read_bytes()))
    other = aircraft.read(tmp_path)
    assert other.files == good.files and other.classes == good.classes and other.groups == good.groups


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("variants", "F/A-18", "F/A-19", "images_variant_train.txt, line 2: the variant must be in data/variants.txt"),
        ("variants", "F/A-18", "707-320", "data/variants.txt, line 3: each line must be another name"),
        (
            "images_variant_train",
            "0001 ",
            "../1 ",
            "line 2: an image's id must stand first, digits only, but is '../1'",
        ),
        ("images_variant_train", "0001 ", "/etc/1 ", "line 2: an image's id must stand first"),
        ("images_variant_train", "0001 ", "٣ ", "line 2: an image's id must stand first"),
        ("images_variant_train", "0001 F/A-18", "0001", "line 2: the variant must be in data/variants.txt, but is ''"),
        ("images_variant_train", "0001 ", "0000 ", "line 2: image 0000 is listed a second time"),
        ("images_variant_val", "0011 ", "0001 ", "each image must stand in one split, but 0001 is in train and val"),
        ("images_variant_test", "0021 ", "0001 ", "each image must stand in one split, but 0001 is in train and test"),
        ("images_variant_trainval", "0011 F/A-18\n", "", "must list what train and val list, but 1 images differ"),
        ("images_variant_trainval", "0011 F/A-18", "0011 707-320", "but 1 images differ, the first 0011"),
        ("images_variant_train", "0001 F/A-18\n", "", "must list what train and val list, but 1 images differ"),
        ("images_manufacturer_val", "0011 McDonnell Douglas\n", "", "but 1 differ, the first 0011"),
        (
            "images_manufacturer_val",
            "McDonnell Douglas",
            "Douglas",
            "the manufacturer must be in data/manufacturers.txt",
        ),
        ("manufacturers", "Boeing", "Boing", "the manufacturer must be in data/manufacturers.txt, but is 'Boeing'"),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(tmp_path, file, old, new, message):
    path = small(tmp_path) / "data" / f"{file}.txt"
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert message in refusal(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    for name in ("images_variant_train", "images_variant_val", "images_variant_test", "manufacturers"):
        (small(tmp_path) / "data" / f"{name}.txt").unlink()
        assert f"{name}.txt" in refusal(tmp_path)
    small(tmp_path)
    (tmp_path / "data/images").rmdir()
    assert "must hold data/images, but does not: it is in the archive of 2.75 GB" in refusal(tmp_path)


def test_a_variant_without_training_images_is_refused(tmp_path):
    small(tmp_path)
    for name in ("train", "trainval", "manufacturer_train"):
        path = tmp_path / "data" / f"images_{name if 'm' in name else 'variant_' + name}.txt"
        path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("0001")))
    assert "every label must have a training image, but 'F/A-18' has none" in refusal(tmp_path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damaged.damages(), number=st.integers(0, 8))
def test_damage_ends_in_one_line_or_in_a_sound_listing(tmp_path, damage, number):
    path = sorted((small(tmp_path) / "data").glob("*.txt"))[number]
    path.write_bytes(damage(path.read_bytes()))
    damaged.outcome(aircraft.read, tmp_path)
