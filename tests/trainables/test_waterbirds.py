"""Waterbirds: the official counts from rows alone, and one line for each damage."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests import damaged, drawn
from trainables.prepare import waterbirds

HEADER = "img_id,img_filename,y,split,place,place_filename"
ROWS = [f"{i},001.Bird/{i}.jpg,{i % 2},{i % 3},{i // 2 % 2},/o/ocean/{i}.jpg" for i in range(24)]
# (y, place): images in train, val and test of the authors' file (Sagawa et al., table 1; val and test from the file)
OFFICIAL = {(0, 0): (3498, 467, 2255), (0, 1): (184, 466, 2255), (1, 0): (56, 133, 642), (1, 1): (1057, 133, 642)}


def table(folder: Path, rows=ROWS, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    message = damaged.outcome(waterbirds.read, folder)
    assert isinstance(message, str)
    return message


def test_the_drawn_distribution(tmp_path):
    listing = waterbirds.read(drawn.draw_waterbirds(tmp_path))
    damaged.check(listing, tmp_path)
    assert all(file.is_file() for file in listing.files)
    assert (listing.classes, listing.groups, listing.positive) == (["landbird", "waterbird"], ["land", "water"], 1)
    cells = Counter(zip(listing.split.tolist(), listing.label.tolist(), listing.group.tolist()))
    assert cells == {(("train", "val", "test")[s], y, place): n for (s, y, place), n in drawn.BIRDS.items()}
    for file, label in zip(listing.files, listing.label):
        assert ("Albatross" in file.name) == bool(label)
    assert "not the official 4,795 / 1,199 / 5,794" in listing.notes["split"]


def test_the_official_counts(tmp_path):
    cells = [(y, s, place) for (y, place), counts in OFFICIAL.items() for s in range(3) for _ in range(counts[s])]
    rows = [f"{i},{i:05d}.jpg,{y},{s},{place},p.jpg" for i, (y, s, place) in enumerate(cells, 1)]
    listing = waterbirds.read(table(tmp_path, rows))
    assert Counter(listing.split.tolist()) == {"train": 4795, "val": 1199, "test": 5794}
    train = listing.split == "train"
    cells = Counter(zip(listing.label[train].tolist(), listing.group[train].tolist()))
    assert cells == {(0, 0): 3498, (0, 1): 184, (1, 0): 56, (1, 1): 1057}
    assert "the official cut" in listing.notes["split"] and "4,795 / 2,400 / 2,800" in listing.notes["split"]


def test_columns_may_stand_in_any_order(tmp_path):
    good = waterbirds.read(table(tmp_path / "a"))
    rows = [",".join(row.split(",")[::-1]) for row in ROWS]
    other = waterbirds.read(table(tmp_path / "b", rows, ",".join(HEADER.split(",")[::-1])))
    assert np.array_equal(good.label, other.label) and np.array_equal(good.split, other.split)
    assert [file.name for file in good.files] == [file.name for file in other.files]


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n\n\r\n", lambda b: b[:-1],
])  # fmt: skip
def test_harmless_differences_change_nothing(tmp_path, change):
    good = waterbirds.read(table(tmp_path))
    (tmp_path / "metadata.csv").write_bytes(change((tmp_path / "metadata.csv").read_bytes()))
    other = waterbirds.read(tmp_path)
    assert other.files == good.files and np.array_equal(other.label, good.label)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, HEADER.replace("place,", "ground,"), "must have the column place, but has img_id, img_filename"),
        (ROWS, HEADER.replace("y,split", "split,y"), "line 4: `y` must be one of 0, 1, but is '2'"),
        ([*ROWS, "99,x.jpg,2,0,0,p"], HEADER, "line 26: `y` must be one of 0, 1, but is '2'"),
        ([*ROWS, "99,x.jpg,0,3,0,p"], HEADER, "line 26: `split` must be one of 0, 1, 2, but is '3'"),
        ([*ROWS, "99,x.jpg,0,0,-1,p"], HEADER, "line 26: `place` must be one of 0, 1, but is '-1'"),
        ([*ROWS, "99,x.jpg,0.0,0,1,p"], HEADER, "line 26: `y` must be one of 0, 1, but is '0.0'"),
        ([*ROWS, "5,x.jpg,0,0,1,p"], HEADER, "line 26: each img_id must stand once, but '5' stands twice"),
        ([*ROWS, "99,001.Bird/3.jpg,0,0,1,p"], HEADER, "line 26: 001.Bird/3.jpg is listed a second time"),
        ([*ROWS, "99,../x.jpg,0,0,1,p"], HEADER, "img_filename must stay inside the folder"),
        ([*ROWS, "99,/etc/passwd,0,0,1,p"], HEADER, "img_filename must stay inside the folder"),
        ([*ROWS, "99,x.jpg,0,0,1"], HEADER, "line 26: as many values as columns"),
        ([row for row in ROWS if row.split(",")[2] == "0"], HEADER, "every label must have a training image"),
        ([row for row in ROWS if row.split(",")[3] != "1"], HEADER, "the search needs validation images"),
        ([], HEADER, "must list images, but has no rows"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, rows, header, message):
    assert message in refusal(table(tmp_path, rows, header))


@pytest.mark.parametrize("content", [b"", b"\xff\xfef\0i\0", "é,é".encode("latin-1"), b"\0" * 50, b"\n\n\n"])
def test_another_content_is_refused(tmp_path, content):
    (table(tmp_path) / "metadata.csv").write_bytes(content)
    assert "metadata.csv must" in refusal(tmp_path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damaged.damages())
def test_damage_ends_in_one_line_or_in_a_sound_listing(tmp_path, damage):
    table(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(damage((tmp_path / "metadata.csv").read_bytes()))
    damaged.outcome(waterbirds.read, tmp_path)
