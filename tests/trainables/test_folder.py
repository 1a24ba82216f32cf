"""The user's folder: each mistake is one clear line, and each readable image becomes upright RGB of one size."""

import functools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.prepare import datasets
from trainables.prepare.listing import read_listing

HEADER = "file_path,label,split"
GOOD = ["a.png,0,train", "b.png,1,train", "c.png,0,val"]
prepare = functools.partial(datasets.prepare, "folder")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abc"):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(folder / f"{name}.png")
    return table(folder, GOOD)


def table(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(folder, 16, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (GOOD, "path,label,split", "must have the column file_path, but has path, label"),
        ([row.replace(",", ";") for row in GOOD], HEADER.replace(",", ";"), "but has file_path;label;split"),
        ([], HEADER, "must list images, but has no rows"),
        ([], "", "must have the column file_path, but has none"),
        (["a.png,0,train", "b.png,0,val"], HEADER, "needs at least 2 classes, but the data have only '0'"),
        (["a.png,0,train", "b.png,1,val"], HEADER, "every label must have a training image, but '1' has none"),
        (["a.png,0,train", "b.png,1,train"], HEADER, "needs validation images"),
        (["a.png,0,train", "b.png,1,dev"], HEADER, "line 3: `split` must be one of train, val, test, but is 'dev'"),
        (["a.png,0,train", "b.png,,train"], HEADER, "line 3: `label` must have a value"),
        (["a.png,0,train", "b.png,1"], HEADER, "line 3: as many values as columns"),
        (["a.png,0,train", "b.png,1,val,x"], HEADER, "line 3: as many values as columns"),
        (["x/../../a.png,0,train", *GOOD], HEADER, "file_path must stay inside the folder"),
        (["/etc/passwd,0,train", *GOOD], HEADER, "file_path must stay inside the folder"),
        ([",0,train", *GOOD], HEADER, "file_path must stay inside the folder"),
        (["a.png,0,cat", "b.png,0,dog"], "file_path,label,label_name", "each label must have one name, but label 0"),
        (["a.png,0,cat", "b.png,1,cat"], "file_path,label,label_name", "each label_name must belong to one label"),
    ],
)
def test_a_wrong_table_is_refused(photos, cache, rows, header, message):
    assert message in refusal(table(photos, rows, header))
    assert not list(cache.glob("*"))


def test_a_missing_folder_or_table_is_refused(tmp_path):
    assert "`data` must be a folder, but" in refusal(tmp_path / "none")
    assert "must hold a metadata.csv" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00f", "file_path,label\ncaf\xe9.png,0\n".encode("latin-1")])
def test_another_encoding_is_refused(photos, content):
    (photos / "metadata.csv").write_bytes(content)
    assert "must be a comma-separated table in UTF-8, but" in refusal(photos)


def damaged(folder: Path) -> Path:
    """Beside three good images: two missing, a truncated JPEG, an empty file, a text, a folder."""
    Image.effect_noise((64, 64), 60).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:600])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "dir.png").mkdir()
    names = ("gone.png", "cut.jpg", "empty.png", "x" * 300 + ".png", "text.png", "dir.png")
    return table(folder, [*GOOD, *(f"{name},1,train" for name in names)])


def test_all_unreadable_images_are_named_in_one_error(photos, cache):
    message = refusal(damaged(photos))
    assert f"3 image(s) are missing: gone.png, {'x' * 300}.png, dir.png; " in message
    assert "3 image(s) are corrupt: cut.jpg, empty.png, text.png; repair them or pass `skip_corrupt`" in message
    assert not list(cache.glob("*"))


def test_skip_corrupt_leaves_them_out_and_counts_them(photos, cache):
    store = Store(prepare(damaged(photos), 16, skip_corrupt=True))
    assert len(store) == 3 and store.label.tolist() == [0, 1, 0]
    assert store.manifest.notes["images"] == 9 and store.manifest.notes["skipped"] == 6
    assert set(store.manifest.notes["skipped_files"]) >= {"gone.png", "cut.jpg"}
    assert [path.suffix for path in cache.iterdir()] == [".arrow"]


def test_skipping_may_not_leave_a_class_without_training_images(photos):
    (photos / "b.png").write_bytes(b"")
    assert "every label must have a training image, but '1' has none" in refusal(photos, skip_corrupt=True)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["10", "9", "2"], ["2", "9", "10"]),
        (["1", "-2", "0"], ["-2", "0", "1"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["--3", "1", "7"], ["--3", "1", "7"]),
        (["9" * 5000, "1", "2"], ["1", "2", "9" * 5000]),
    ],
)
def test_labels_sort_as_numbers_where_all_are_numbers(photos, values, classes):
    rows = [f"{i}{split}.png,{value},{split}" for i, value in enumerate(values) for split in ("train", "val")]
    result = read_listing(table(photos, rows))
    assert result.classes == classes
    assert [result.classes[i] for i in result.label] == [value for value in values for _ in range(2)]


def test_names_stand_for_codes_and_groups_are_optional(photos):
    rows = ["a.png,1,dog,s,train", "b.png,0,eel,n,train", "c.png,1,dog,n,val"]
    result = read_listing(table(photos, rows, "file_path,label,label_name,group,split"))
    assert (result.classes, result.label.tolist()) == (["eel", "dog"], [1, 0, 1])
    assert (result.groups, result.group.tolist()) == (["n", "s"], [1, 0, 0])
    named = [row.replace("1,", "").replace("0,", "") for row in rows]
    result = read_listing(table(photos, named, "file_path,label_name,group_name,split"))
    assert (result.classes, result.groups) == (["dog", "eel"], ["n", "s"])
    assert read_listing(table(photos, GOOD)).groups == ["all"]


def test_two_classes_make_a_binary_task(photos):
    assert Store(prepare(photos, 8)).manifest.positive == 1
    Image.new("RGB", (9, 9), "red").save(photos / "d.png")
    assert Store(prepare(table(photos, [*GOOD, "d.png,2,train"]), 8)).manifest.positive is None


def drawn(photos, cells) -> tuple[np.ndarray, Counter]:
    rows = [f"{label}{group}{i}.png,{label},{group}" for label, group, n in cells for i in range(n)]
    first, second = (read_listing(table(photos, rows, "file_path,label,group")) for _ in range(2))
    assert (first.split == second.split).all()
    return first.split, Counter(zip(first.label.tolist(), first.group.tolist(), first.split.tolist()))


def test_a_drawn_split_is_70_15_15_in_each_cell_and_the_same_each_time(photos):
    cells = [("0", "n", 200), ("0", "s", 20), ("1", "n", 40), ("1", "s", 100)]
    split, counts = drawn(photos, cells)
    for i, (_, _, n) in enumerate(cells):
        shares = [counts[(i // 2, i % 2, name)] for name in ("train", "val", "test")]
        assert shares == [n * 70 // 100, n * 15 // 100, n * 15 // 100]
    assert set(split[:140]) == {"train", "val", "test"}  # drawn, and not the first 70 %


def test_a_drawn_split_lets_small_cells_take_turns(photos):
    split, counts = drawn(photos, [(label, group, 2) for label in "0123456789" for group in "abcde"])
    assert [(split == name).sum() for name in ("train", "val", "test")] == [70, 15, 15]
    assert len([cell for cell in counts if cell[2] == "test"]) == 15  # of 50 cells, where rounding in each gives none


def test_an_image_that_is_listed_twice_is_refused(photos):
    assert "line 5: a.png is listed a second time" in refusal(table(photos, [*GOOD, "a.png,1,val"]))


def test_blanks_around_a_label_do_not_make_another_class(photos):
    rows = ["a.png,cat,train", "b.png,dog,train", "c.png, cat ,val"]
    assert read_listing(table(photos, rows)).classes == ["cat", "dog"]


def test_the_cache_is_keyed_by_content_and_size_and_not_by_time(photos):
    seen = []
    first = prepare(photos, 16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    os.utime(photos / "a.png", (1, 1))
    os.utime(photos / "metadata.csv", (1, 1))
    assert prepare(photos, 16) == first
    assert prepare(photos, 8) != first
    table(photos, [*GOOD[:2], "c.png,1,val"])
    second = prepare(photos, 16)
    Image.fromarray(np.full((20, 20, 3), 7, np.uint8)).save(photos / "a.png")
    assert len({first, second, prepare(photos, 16)}) == 3


def decoded(photos: Path, image: Image.Image, name: str = "a.png", size: int = 16, **options) -> np.ndarray:
    image.save(photos / name, **options)
    store = Store(prepare(table(photos, [f"{name},0,train", *GOOD[1:]]), size))
    return store.images(np.array([0]))[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("shape", [(20, 20), (7, 50), (64, 3), (1, 1), (1, 5000)])
def test_any_mode_and_shape_ends_as_rgb_of_the_size(photos, mode, shape):
    image = Image.new("I;16", shape, 128 * 257) if mode == "I;16" else Image.new("L", shape, 128).convert(mode)
    result = decoded(photos, image)
    assert result.shape == (16, 16, 3) and result.dtype == np.uint8
    if mode != "1":  # dithered
        assert abs(result.astype(int) - 128).max() <= 2


def test_a_long_strip_is_never_enlarged_whole(photos):
    """Enlarged to 224 px on its shorter side, this one would take 9 GB."""
    assert (decoded(photos, Image.new("RGB", (1, 60_000), "red"), size=224) == [255, 0, 0]).all()


def test_a_cmyk_jpeg_is_read(photos):
    result = decoded(photos, Image.new("RGB", (30, 20), (200, 30, 30)).convert("CMYK"), "k.jpg")
    assert abs(result.astype(int) - [200, 30, 30]).max() <= 6


def test_the_centre_square_is_taken_and_the_rest_dropped(photos):
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, :32, 0], pixels[:, 32:64, 1], pixels[:, 64:, 2] = 255, 255, 255
    for turned in (pixels, pixels.transpose(1, 0, 2)):
        result = decoded(photos, Image.fromarray(np.ascontiguousarray(turned)), size=32)
        assert (result == [0, 255, 0]).all()


@pytest.mark.parametrize("size", [8, 48])
def test_a_gradient_is_resampled_evenly(photos, size):
    ramp = np.repeat(np.linspace(0, 255, 24).round().astype(np.uint8)[None], 24, axis=0)
    row = decoded(photos, Image.fromarray(ramp), size=size)[size // 2, :, 0].astype(int)
    centres = (np.arange(size) + 0.5) * 24 / size - 0.5
    inner = (centres > 2) & (centres < 21)
    assert abs(row - centres * 255 / 23)[inner].max() <= 2


CORNERS = {1: (0, 0), 2: (0, 15), 3: (15, 15), 4: (15, 0), 5: (0, 0), 6: (0, 15), 7: (15, 15), 8: (15, 0)}


@pytest.mark.parametrize(("orientation", "corner"), CORNERS.items())
def test_a_photograph_is_turned_upright_as_its_exif_says(photos, orientation, corner):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:4, :4] = 255  # white in the stored upper left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(photos, Image.fromarray(pixels), "e.png", exif=exif)
    assert result[corner].min() > 200
    assert sum(result[i, j].min() > 200 for i in (0, 15) for j in (0, 15)) == 1


WORDS = ["a.png", "b.png", "c.png", "../x", "/", "0", "1", "--3", "-", "٣", "²", "1_0", "train", "val", "test", "label"]
SIGNS = [",", ",", ",", ";", "\n", "\n", "\r", '"', "\0", " ", "\t", "\ufeff"]
pieces = st.sampled_from([*WORDS, *SIGNS, HEADER + "\n", "9" * 5000, "x" * 300, "y" * 140_000])
texts = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=25).map("".join))
cuts = st.tuples(st.integers(0, 70), st.integers(0, 10), texts)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cuts, min_size=1, max_size=3), st.sampled_from(["utf-8", "utf-16", "latin-1"]), st.booleans())
def test_a_damaged_table_is_read_or_refused_and_never_anything_else(photos, damages, encoding, skip):
    content = "\n".join([HEADER, *GOOD, "a.png,1,test"])
    for start, length, text in damages:
        content = content[:start] + text + content[start + length :]
    (photos / "metadata.csv").write_bytes(content.encode(encoding, errors="ignore"))
    try:
        store = Store(prepare(photos, 8, skip_corrupt=skip))
    except ConfigError:
        return
    assert len(store) > 0 and store.label.max() < len(store.manifest.classes)
