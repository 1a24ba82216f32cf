"""GeoDE: the authors' table, a split that depends on nothing but the images, one line for each damage."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import damaged, drawn
from trainables.config import ConfigError
from trainables.prepare import geode

HEADER = "file_path,object,region,ip_country"
ROWS = [f"{region}/{thing}_{i}.jpg,{thing},{region},Somewhere" for region in geode.GROUPS for thing in ("bag", "hat")
        for i in range(3)]  # fmt: skip


def table(folder: Path, rows=ROWS, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def split_of(listing) -> dict[str, str]:
    return dict(zip((f"{file.parent.name}/{file.name}" for file in listing.files), listing.split.tolist()))


def refusal(folder: Path) -> str:
    message = damaged.outcome(geode.read, folder)
    assert isinstance(message, str)
    return message


def test_the_drawn_distribution(tmp_path):
    listing = geode.read(drawn.draw_geode(tmp_path))
    damaged.check(listing, tmp_path)
    assert len(listing.files) == 240 and all(file.is_file() for file in listing.files)
    assert listing.groups == ["Africa", "Americas", "EastAsia", "Europe", "SouthEastAsia", "WestAsia"]
    assert len(listing.classes) == 40 and listing.classes == sorted(listing.classes)
    for file, label, group in zip(listing.files, listing.label, listing.group):
        assert file.parent.name == listing.groups[group] and listing.classes[label] in file.name
    assert listing.positive is None and listing.banner == 0 and "classes_expected" not in listing.notes


def test_shares_are_80_to_20_and_a_tenth_of_the_80_in_each_region(tmp_path):
    rows = [f"{region}/{thing}{i}.jpg,thing{thing},{region},x"
            for region in geode.GROUPS for thing in range(10) for i in range(50)]  # fmt: skip
    listing = geode.read(table(tmp_path, rows))
    assert Counter(listing.split.tolist()) == {"train": 2160, "val": 240, "test": 600}
    for label in range(10):
        for group in range(6):
            cell = Counter(listing.split[(listing.label == label) & (listing.group == group)].tolist())
            assert cell == {"train": 36, "val": 4, "test": 10}


def test_the_split_is_this_one(tmp_path):
    """Pinned: another split of the same images would make every number so far incomparable."""
    listing = geode.read(table(tmp_path))
    assert "".join(split[1] for split in listing.split) == "errrarrarrrerrerrrrrrrerrerrraerrerr"


def test_neither_the_order_of_the_table_nor_its_place_changes_the_split(tmp_path):
    listings = [geode.read(table(tmp_path / "a")), geode.read(table(tmp_path / "b", ROWS[::-1]))]
    swapped = [",".join([p[3], p[2], p[1], p[0]]) for p in (row.split(",") for row in ROWS)]
    listings.append(geode.read(table(tmp_path / "c", swapped, "ip_country,region,object,file_path")))
    assert split_of(listings[0]) == split_of(listings[1]) == split_of(listings[2])
    for other in listings[1:]:
        assert [file.name for file in listings[0].files] == [file.name for file in other.files]
        assert np.array_equal(listings[0].label, other.label) and np.array_equal(listings[0].group, other.group)


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_paths_from_images_and_from_the_root_give_the_same(tmp_path, prefix):
    root = drawn.draw_geode(tmp_path)
    plain = geode.read(root)
    head, *rows = (root / "index.csv").read_text().splitlines()
    sorted(root.rglob("*.jpg"))[0].unlink()  # one that is missing decides nothing
    listing = geode.read(table(root, [prefix + row for row in rows], head))
    assert listing.files == plain.files and np.array_equal(listing.split, plain.split)
    assert listing.notes["layout"].endswith("from images" if not prefix else "from the root")


def test_fewer_objects_are_taken_and_noted(tmp_path):
    listing = geode.read(table(tmp_path))
    assert listing.classes == ["bag", "hat"] and listing.notes["classes_expected"] == 40


@pytest.mark.parametrize("spelling", ["SouthEastAsia", "South East Asia", "South_East_Asia", " southeast-asia "])
def test_spellings_of_a_region(tmp_path, spelling):
    rows = [row.replace(",SouthEastAsia,", f",{spelling},") for row in ROWS]
    listing = geode.read(table(tmp_path, rows))
    assert Counter(listing.group.tolist()) == dict.fromkeys(range(6), 6)


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n\n\r\n", lambda b: b[:-1],
])  # fmt: skip
def test_harmless_differences_change_nothing(tmp_path, change):
    good = geode.read(table(tmp_path))
    (tmp_path / "index.csv").write_bytes(change((tmp_path / "index.csv").read_bytes()))
    other = geode.read(tmp_path)
    assert other.files == good.files and np.array_equal(other.split, good.split)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, "file_path,thing,region,ip_country", "must have the column object, but has file_path, thing"),
        (ROWS, "file_path,object,object,region", "must have the column object once, but has"),
        (ROWS, "file_path,region,object,ip_country", "line 2: `region` must be one of Africa, Americas, EastAsia"),
        (
            [*ROWS, "x.jpg,bag,Atlantis,x"],
            HEADER,
            "line 38: `region` must be one of Africa, Americas, EastAsia, Europe,",
        ),
        ([*ROWS, "x.jpg,,Europe,x"], HEADER, "line 38: `object` must be a name, but is ''"),
        ([*ROWS, ROWS[3]], HEADER, "index.csv, line 38: Africa/hat_0.jpg is listed a second time"),
        ([*ROWS, "./" + ROWS[3]], HEADER, "is listed a second time"),
        ([*ROWS, "../x.jpg,bag,Europe,x"], HEADER, "file_path must stay inside the folder"),
        ([*ROWS, "/etc/passwd,bag,Europe,x"], HEADER, "file_path must stay inside the folder"),
        ([*ROWS, "x.jpg,bag,Europe"], HEADER, "line 38: as many values as columns"),
        ([row for row in ROWS if ",bag," in row], HEADER, "at least 2 classes, but the data have only 'bag'"),
        (ROWS[:1] + ROWS[3:4], HEADER, "the search needs validation images"),
        ([], HEADER, "must list images, but has no rows"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, rows, header, message):
    assert message in refusal(table(tmp_path, rows, header))


@pytest.mark.parametrize("content", [b"", b"\xff\xfef\0i\0", "objét,é".encode("latin-1"), b"\0" * 50, b"\n\n\n"])
def test_another_content_is_refused(tmp_path, content):
    (table(tmp_path) / "index.csv").write_bytes(content)
    assert "index.csv must" in refusal(tmp_path)


def test_a_folder_in_the_table_s_place_is_refused(tmp_path):
    (tmp_path / "index.csv").mkdir()
    assert "must be a comma-separated table in UTF-8, but" in refusal(tmp_path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damaged.damages())
def test_damage_ends_in_one_line_or_in_a_sound_listing(tmp_path, damage):
    table(tmp_path)
    (tmp_path / "index.csv").write_bytes(damage((tmp_path / "index.csv").read_bytes()))
    damaged.outcome(geode.read, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ROWS))
def test_any_order_of_the_rows_gives_one_listing(tmp_path, order):
    good, other = geode.read(table(tmp_path)), geode.read(table(tmp_path, order))
    assert other.files == good.files and np.array_equal(other.split, good.split)


def test_an_unknown_region_names_the_line_of_the_first(tmp_path):
    with pytest.raises(ConfigError, match=r"line 3: .*'Mars'"):
        geode.read(table(tmp_path, [ROWS[0], "m.jpg,bag,Mars,x", "n.jpg,bag,Moon,x"]))
