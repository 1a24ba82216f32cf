"""UTKFace: labels from names, the known oddities, a split that both tasks share, one line for what is no UTKFace."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import damaged, drawn
from trainables.prepare import utkface


def faces(folder: Path, names: list) -> Path:
    """Empty files; ``names`` are text or bytes."""
    root = folder / "UTKFace"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name in names:
        open(os.path.join(os.fsencode(root), os.fsencode(name)), "wb").close()
    return root


def good(count: int, age=lambda i: 5 + 10 * (i % 9)) -> list[str]:
    return [f"{age(i)}_{i % 2}_{i % 5}_{20170109142408075 + i}.jpg.chip.jpg" for i in range(count)]


def refusal(folder: Path, task: str = "gender") -> str:
    message = damaged.outcome(lambda source: utkface.read(source, task), folder)
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("task", ["gender", "age"])
def test_the_drawn_distribution(tmp_path, task):
    listing = utkface.read(drawn.draw_utkface(tmp_path), task)
    damaged.check(listing, tmp_path)
    assert len(listing.files) == 302 and all(file.is_file() for file in listing.files)
    assert listing.groups == ["White", "Black", "Asian", "Indian", "Others"]
    assert listing.classes == (["male", "female"] if task == "gender" else utkface.AGES)
    assert listing.positive == (1 if task == "gender" else None)
    for file, label, group in zip(listing.files, listing.label, listing.group):
        age, gender, race = (int(part) for part in file.name.split("_")[:3])
        assert group == race and label == (gender if task == "gender" else min(max(age - 1, 0) // 10, 8))


def test_the_known_oddities_are_left_out_or_kept_and_listed(tmp_path):
    notes = utkface.read(drawn.draw_utkface(tmp_path), "gender").notes
    assert notes["left_out"] == [f"{stem}.jpg.chip.jpg: no race" for stem in drawn.NO_RACE]
    assert notes["odd_names_kept"] == list(drawn.ODD_NAMES)
    assert notes["other_files"] == [".DS_Store", "Thumbs.db"]


def test_ages_at_the_edges():
    ages = np.array([0, 1, 10, 11, 20, 21, 30, 31, 79, 80, 81, 116, 200])
    assert utkface.age_bin(ages).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 7, 7, 8, 8, 8]
    for age in range(201):  # the names say the same as the bins
        low, _, high = utkface.AGES[utkface.age_bin(np.array([age]))[0]].replace("81+", "81-200").partition("-")
        assert int(low) <= age <= int(high)


def test_both_tasks_and_any_order_have_the_same_split(tmp_path):
    names = good(1000)
    by_task = [utkface.read(faces(tmp_path, names), task) for task in ("gender", "age")]
    other = utkface.read(faces(tmp_path, names[::-1]), "gender")
    for listing in (by_task[1], other):
        assert listing.files == by_task[0].files and np.array_equal(listing.split, by_task[0].split)
    assert Counter(other.split.tolist()) == {"train": 720, "val": 80, "test": 200}


def test_the_split_is_this_one(tmp_path):
    """Pinned: another split of the same images would make every number so far incomparable."""
    listing = utkface.read(faces(tmp_path, good(50)), "gender")
    assert "".join(split[1] for split in listing.split) == "rrereerrerarrrerrrererrrerrrrerrrrrrrrrarrrrarrrea"


def test_the_official_count_gives_these_sizes():
    assert Counter(utkface._splits(23_705).tolist()) == {"train": 17_068, "val": 1_896, "test": 4_741}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("39_1_20170116174525125.jpg.chip.jpg", "no race"),
        ("201_1_0_20170116174525125.jpg.chip.jpg", "age over 200"),
        ("x_1_0_20170116174525125.jpg.chip.jpg", "not [age]"),
        ("-5_1_0_20170116174525125.jpg.chip.jpg", "not [age]"),
        ("٣_1_0_20170116174525125.jpg.chip.jpg", "not [age]"),
        ("30_2_0_20170116174525125.jpg.chip.jpg", "not [age]"),
        ("30_1_5_20170116174525125.jpg.chip.jpg", "not [age]"),
        ("30_1_0.jpg", "not [age]"),
        ("30_1_0_.jpg", "not [age]"),
        (".jpg", "not [age]"),
        (b"\xff\n.jpg", "not [age]"),
        ("5_0_0_20170109142408075 .jpg.chip.jpg", ""),
        ("5_0_0_20170109142408075.jpg", "the same person and date as another file"),
    ],
)
def test_a_name_that_cannot_be_read_is_left_out_and_listed(tmp_path, name, reason):
    listing = damaged.outcome(lambda source: utkface.read(source, "age"), faces(tmp_path, [*good(100), name]))
    assert len(listing.files) == 100 and len(listing.notes["left_out"]) == 1
    entry = listing.notes["left_out"][0]
    assert entry.isprintable() and reason in entry


def test_odd_names_with_readable_labels_are_kept(tmp_path):
    names = [b"7_1_3_20170116220224657 .jpg.chip.jpg", b"7_1_3_20170116220224658jpg.chip.jpg"]
    names += [b"7_1_3_20170116220224659.pg.chip.jpg", b"7_1_3_1\xff\n.jpg", b"7_1_3_20170116220224650.jpg"]
    listing = damaged.outcome(lambda source: utkface.read(source, "gender"), faces(tmp_path, [*good(100), *names]))
    assert len(listing.files) == 105 and len(listing.notes["odd_names_kept"]) == 4 and not listing.notes["left_out"]
    assert all(name.isprintable() for name in listing.notes["odd_names_kept"])


def test_other_files_and_folders_are_noted(tmp_path):
    root = faces(tmp_path, [*good(100), ".DS_Store", "7_1_3_1.JPG", "7_1_3_1.jpg.part"])
    (root / "7_1_3_20170116220224657.jpg").mkdir()
    listing = utkface.read(root, "gender")
    assert len(listing.files) == 100
    assert listing.notes["other_files"] == [
        ".DS_Store",
        "7_1_3_1.JPG",
        "7_1_3_1.jpg.part",
        "7_1_3_20170116220224657.jpg",
    ]


def test_many_wrong_names_are_no_utkface(tmp_path):
    wrong = [f"cat{i}.jpg" for i in range(11)]
    assert "11 of 111 are not, such as 'cat0.jpg': is it UTKFace" in refusal(faces(tmp_path, [*good(100), *wrong]))
    assert len(utkface.read(faces(tmp_path, [*good(100), *wrong[:10]]), "gender").files) == 100
    assert len(utkface.read(faces(tmp_path, [*good(1089), *wrong]), "gender").files) == 1089  # 1 % is not more than 1 %


def test_what_cannot_be_is_refused(tmp_path):
    assert "must hold the .jpg files of UTKFace, but holds none" in refusal(faces(tmp_path, [".DS_Store"]))
    assert "task must be one of gender, age, but got 'race'" in refusal(tmp_path, "race")
    assert "at least" in refusal(faces(tmp_path, ["1_0_0_1.jpg"])) or "training image" in refusal(tmp_path)
    (tmp_path / "UTKFace").rename(tmp_path / "other")
    (tmp_path / "UTKFace").write_text("a file")
    assert "must be a folder that can be read" in refusal(tmp_path)


def test_a_missing_age_is_refused_for_that_task_only(tmp_path):
    root = faces(tmp_path, good(100, age=lambda i: 30))
    assert len(utkface.read(root, "gender").files) == 100
    assert "every label must have a training image, but '0-10', '11-20', '31-40'" in refusal(root, "age")


def test_a_folder_of_another_name_is_taken_when_named(tmp_path):
    root = faces(tmp_path, good(100)).rename(tmp_path / "faces")
    assert len(utkface.read(root, "gender").files) == 100


PART = st.sampled_from(["", "0", "1", "2", "5", "9", "10", "200", "201", "-1", "x", "٣", "20170109142408075", " ", "é"])
NAMES = st.one_of(
    st.builds("_".join, st.lists(PART, min_size=1, max_size=5)).map(lambda stem: f"{stem}.jpg".encode()),
    st.binary(min_size=1, max_size=60).map(lambda b: b.replace(b"/", b"").replace(b"\0", b"") + b".jpg"),
    st.binary(min_size=1, max_size=20).map(
        lambda b: b"1_0_0_2017" + b.replace(b"/", b"").replace(b"\0", b"") + b".jpg"
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, max_size=25), sound=st.integers(0, 40), task=st.sampled_from(["gender", "age"]))
def test_damage_ends_in_one_line_or_in_a_sound_listing(tmp_path, names, sound, task):
    root = faces(tmp_path, [*good(sound), *names])
    listing = damaged.outcome(lambda source: utkface.read(source, task), root)
    if not isinstance(listing, str):
        assert len(listing.files) + len(listing.notes["left_out"]) == len(os.listdir(root))
