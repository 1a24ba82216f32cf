"""Subjects, copies and near copies: what belongs together stays in one split, and what does not is refused or named."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.prepare import copies, datasets, digits, make, prepared
from trainables.prepare.decode import decode
from trainables.prepare.listing import SHARES, draw_splits, read_listing
from trainables.prepare.subjects import draw_splits_of_units, units


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photograph(seed: int, side: int = 64) -> Image.Image:
    """Coarse shapes of their own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def folder(path: Path, columns: str, rows: Iterable[tuple[object, ...]], images: dict[str, int] | None = None) -> Path:
    """A data set of the table's images, each with a photograph of its own but for ``images``: those of a number."""
    path.mkdir(exist_ok=True)
    rows = list(rows)
    for number, (name, *_) in enumerate(rows):
        photograph((images or {}).get(str(name), number)).save(path / str(name))
    with open(path / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


def photos(path: Path, subject: str = "ppqqrrssttuu", split: str = "", images: dict[str, int] | None = None) -> Path:
    """Twelve images of two classes in turn, their subjects and splits by letters ("-": nobody's; t, v and e)."""
    rows = [(f"{i}.png", i % 2, s.replace("-", "")) for i, s in enumerate(subject)]
    words = {"t": "train", "v": "val", "e": "test"}
    if split:
        rows = [(*row, words[letter]) for row, letter in zip(rows, split)]
    return folder(path, "file_path,label,subject" + ",split" * bool(split), rows, images)


def prepare(source: Path, **options: bool) -> Store:
    return Store(datasets.prepare("folder", source, 32, **options))


def refusal(source: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_store_says_whose_each_image_is_and_an_empty_value_is_nobodys(tmp_path):
    store = prepare(photos(tmp_path / "in", " pp q-r-prqq", "tttttttvvevv"), allow_overlap=True)
    assert store.subject.tolist() == [-1, 0, 0, -1, 1, -1, 2, -1, 0, 2, 1, 1]
    assert prepared.counts(store)["val"] == {"images": 4, "class_x_group": [[2], [2]], "subjects": 3}


@pytest.mark.parametrize("size", [32, 16])
def test_subjects_stay_with_a_prepared_set_at_every_size(tmp_path, size):
    source = photos(tmp_path / "in", split="ttttttttvvee")
    manifest = make.prepare_into(make.Request("folder", source, tmp_path / "out", 32, 1), print, print)
    store = Store(datasets.prepare("folder", tmp_path / "out", size))
    assert store.subject.tolist() == np.repeat(range(6), 2).tolist()
    assert [manifest["splits"][split]["subjects"] for split in ("train", "val", "test")] == [4, 1, 1]
    assert prepared.check(tmp_path / "out") == []


def test_a_prepared_set_of_other_subjects_is_another(tmp_path):
    source = photos(tmp_path / "in", split="ttttttttvvee")
    request = make.Request("folder", source, tmp_path / "out", 32, 1)
    first = make.prepare_into(request, print, print)
    photos(tmp_path / "in", "ppppqqqqvvee", split="ttttttttvvee")
    with pytest.raises(ConfigError, match="was made from another source"):
        make.prepare_into(request, print, print)
    again = make.prepare_into(make.Request("folder", source, tmp_path / "other", 32, 1), print, print)
    assert again["content_hash"] != first["content_hash"]


def test_without_subjects_stores_and_fingerprints_are_those_of_before(tmp_path):
    """Fingerprints and split of version 0.1.0, of files whose bytes no library decides."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(20):
        (source / f"{i}.ppm").write_bytes(b"P6 8 8 255\n" + bytes((7 * i + j) % 256 for j in range(192)))
    tables = {
        "d73ae7cddf709478": ["file_path,label,group", *(f"{i}.ppm,{i % 2},{i % 3}" for i in range(20))],
        "20d874dd003fce0c": [
            "file_path,label,split",
            *(f"{i}.ppm,{i % 2},{('train', 'val')[i // 10]}" for i in range(20)),
        ],
    }
    for fingerprint, lines in tables.items():
        (source / "metadata.csv").write_text("\n".join(lines) + "\n")
        store = Store(datasets.prepare("folder", source, 8))
        assert store.manifest.fingerprint == fingerprint and store.path.name == f"folder-{fingerprint}.arrow"
        assert store.subject is None and "subjects" not in prepared.counts(store)["val"]
        if "group" in lines[0]:
            assert "".join(split[1] for split in store.split) == "rrrrrrrrrererrareraa"


def test_the_source_image_is_the_subject_of_a_digit(tmp_path):
    store = Store(datasets.prepare("digits", None, 16))
    assert store.subject.tolist() == digits.render()["source"].tolist()
    assert [prepared.counts(store)[split]["subjects"] for split in ("train", "val", "test")] == [395, 254, 250]


def test_a_drawn_split_keeps_subjects_together(signdigits):
    """The real table without its split column, in about the shares of 70/15/15 in each class and in each group."""
    with open(signdigits / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    subject, label, group = (np.array([int(row[name]) for row in rows]) for name in ("subject", "label", "group"))
    split = draw_splits_of_units(subject, label, group, SHARES)
    assert all(len(set(split[subject == each])) == 1 for each in set(subject))
    for values in (np.zeros_like(label), label, group):
        for value in set(values):
            shares = [(split[values == value] == name).mean() for name in ("train", "val", "test")]
            assert shares == pytest.approx(SHARES, abs=0.02)
    assert (split == draw_splits_of_units(subject, label, group, SHARES)).all()


@st.composite
def tables(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 40))
    column = lambda most: np.array(draw(st.lists(st.integers(0, most), min_size=n, max_size=n)))  # noqa: E731
    return np.unique(column(draw(st.integers(0, 39))), return_inverse=True)[1], column(3), column(2)


@given(tables())
def test_whatever_the_subjects_each_is_in_one_split_and_each_class_is_trained(table):
    unit, label, group = table
    try:
        split = draw_splits_of_units(unit, label, group, SHARES)
    except ConfigError as error:  # no subject has a brother in all of its classes
        assert "training can spare none for validation" in str(error)
        assert all(any(len(set(unit[label == k])) == 1 for k in set(label[unit == u])) for u in set(unit))
        return
    assert all(len(set(split[unit == u])) == 1 for u in set(unit))
    assert set(label[split == "train"]) == set(label) and (split == "val").any()


def test_a_table_of_one_subject_has_nobody_to_validate_on(tmp_path):
    assert "of 1 subjects training can spare none for validation" in refusal(photos(tmp_path / "in", "p" * 12))


def test_identical_files_are_drawn_into_one_split(tmp_path):
    rows = [(f"{i}.png", i % 2) for i in range(40)]
    twins = {f"{i}.png": i - 20 for i in range(20, 40)}
    source = folder(tmp_path / "in", "file_path,label", rows, twins)
    listing = read_listing(source)
    assert (listing.split[:20] == listing.split[20:]).all() and set(listing.split) == {"train", "val", "test"}
    assert (listing.split != draw_splits(listing.label, listing.group, SHARES)).any()
    notes = prepare(source).manifest.notes
    assert notes["copies"] == "20 image(s) are identical to one of the same split and label, such as 20.png to 0.png"
    assert "identical files, stay in one split" in notes["split"]


def test_subjects_and_copies_chain(tmp_path):
    """Two subjects with an image in common are one unit."""
    files = [tmp_path / name for name in "abcde"]
    for file, content in zip(files, ["one", "two", "two", "six", "gone"]):
        file.write_text(content)
    files[4].unlink()
    assert units(np.array([7, 7, 9, 9, -1]), files).tolist() == [0, 0, 0, 0, 1]
    assert units(np.array([-1, 7, 9, -1, -1]), files).tolist() == [0, 1, 1, 2, 3]


def test_a_subject_in_two_given_splits_is_refused_unless_allowed(tmp_path):
    source = photos(tmp_path / "in", split="tttttttvvvee")
    message = refusal(source)
    assert "1 subject(s) have images in two splits, such as 's' in train and val: mend the table" in message
    assert "or pass `allow_overlap`" in message
    assert not list((tmp_path / "cache").glob("*"))
    allowed = prepare(source, allow_overlap=True)
    assert "such as 's' in train and val" in allowed.manifest.notes["overlap"]
    assert "such as 's' in train and val" in refusal(source)  # the store is there, but nobody has agreed to it now


@pytest.mark.parametrize(("twin", "where"), [(10, "val, '0'"), (3, "train, '1'")])
def test_identical_images_across_splits_or_labels_are_refused_unless_allowed(tmp_path, twin, where):
    source = photos(tmp_path / "in", "-" * 12, "ttttttttvvvv", {f"{twin}.png": 0})
    pair = f"{twin}.png ({where}) to 0.png (train, '0')"
    message = f"1 image(s) are identical to one of another split or label, such as {pair}"
    assert message in refusal(source) and not list((tmp_path / "cache").glob("*"))
    assert message in prepare(source, allow_overlap=True).manifest.notes["overlap"]


def test_another_format_of_the_same_pixels_is_identical(tmp_path):
    source = photos(tmp_path / "in", "-" * 12, "ttttttttvvvv")
    Image.open(source / "0.png").save(source / "10.png", "BMP")
    assert "such as 10.png (val, '0') to 0.png (train, '0')" in refusal(source)


def test_identical_images_of_one_split_and_label_are_a_note(tmp_path):
    store = prepare(photos(tmp_path / "in", "-" * 12, "ttttttttvvvv", {"2.png": 0, "6.png": 0, "11.png": 9}))
    assert store.manifest.notes["copies"].startswith(
        "3 image(s) are identical to one of the same split and label, such as"
    )
    assert "overlap" not in store.manifest.notes and "near_copies" not in store.manifest.notes


def again(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def test_a_near_copy_in_another_split_is_named_and_no_error(tmp_path):
    source = photos(tmp_path / "in", "-" * 12, "ttttttttvvee")
    again(photograph(2), 60).resize((40, 40)).save(source / "9.png")
    again(photograph(3), 60).save(source / "5.png")  # of one split
    note = prepare(source).manifest.notes["near_copies"]
    assert note == "1 image(s) look like a copy of one of another split, such as 9.png (val) of 2.png (train)"


def test_near_copies_of_photographs_are_found_without_a_false_alarm(signdigits):
    """All real photographs, of one set-up, and beside them 200 of the training split saved again as validation."""
    with open(signdigits / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    images = [decode(signdigits / row["file_path"], 64) for row in rows]
    split = np.array([row["split"] for row in rows])
    thumbnails = np.array([copies.thumbnail(image) for image in images])
    assert len(copies.near(thumbnails, split)) == 0
    chosen = np.random.default_rng(0).choice(np.flatnonzero(split == "train"), 200, replace=False)
    saved = [copies.thumbnail(np.asarray(again(Image.fromarray(images[row]), 50))) for row in chosen]
    pairs = copies.near(np.concatenate([thumbnails, saved]), np.concatenate([split, ["val"] * 200]))
    assert set(map(tuple, pairs)) <= {(row, len(rows) + i) for i, row in enumerate(chosen)}
    assert len(pairs) > 180


def test_the_renderings_of_a_digit_are_no_copies():
    rendered = digits.render()
    thumbnails = np.array([copies.thumbnail(image) for image in rendered["images"]])
    assert len(copies.near(thumbnails, rendered["split"])) == 0


def naive(thumbnails: np.ndarray, split: np.ndarray) -> list[list[int]]:
    """Every pair, by the definition."""
    pairs = []
    for b in range(len(thumbnails)):
        for a in range(b):
            one, two = thumbnails[a].astype(int), thumbnails[b].astype(int)
            if split[a] == split[b] or min(one.std(), two.std()) < copies.CONTRAST:
                continue
            differing = 0
            for x, y in ((one, two), (one.T, two.T)):
                grows = [
                    [[z[i, j] + z[i + 1, j] < z[i, j + 1] + z[i + 1, j + 1] for j in range(8)] for i in range(8)]
                    for z in (x, y)
                ]
                differing += int((np.array(grows[0]) != np.array(grows[1])).sum())
            if differing <= copies.FARTHEST and np.corrcoef(one.ravel(), two.ravel())[0, 1] > copies.ALIKE:
                pairs.append([a, b])
    return sorted(pairs)


@pytest.mark.parametrize("noise", [1, 2, 4])
def test_near_copies_are_those_that_comparing_all_pairs_finds(noise):
    """Images with neighbours on both sides of the limits; some are blank."""
    rng = np.random.default_rng(noise)
    seeds = rng.uniform(60, 200, (6, 9, 9)) * rng.choice([0.02, 1, 1], (6, 1, 1))
    thumbnails = (seeds[rng.integers(0, 6, 60)] + rng.normal(0, noise, (60, 9, 9))).clip(0, 255).astype(np.uint8)
    split = rng.choice(["train", "val", "test"], 60)
    found = copies.near(thumbnails, split).tolist()
    assert found == naive(thumbnails, split) and (noise > 2 or found)


def test_blank_images_look_like_nothing():
    blank = np.random.default_rng(0).integers(200, 204, (50, 9, 9)).astype(np.uint8)
    assert len(copies.near(blank, np.array(["train", "val"] * 25))) == 0
    assert len(copies.near(np.zeros((50, 9, 9), np.uint8), np.array(["train", "val"] * 25))) == 0
