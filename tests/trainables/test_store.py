"""The store gives back the very bytes it was given, from the mapped file, and is whole or absent."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import patience
from trainables.data.store import ROWS_PER_BATCH, Manifest, Store, write
from trainables.files import cache_folder, replace_atomically

SIZE = 6


def manifest(**changes) -> Manifest:
    return Manifest(**{"name": "toy", "size": SIZE, "classes": ["a", "b", "ü"], "groups": ["x", "y"], **changes})


def random_rows(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    return images, rng.integers(0, 3, n), rng.integers(0, 2, n), rng.choice(["train", "val", "test"], n)


def written(path: Path, columns, **changes) -> Store:
    write(path, manifest(**changes), zip(*columns))
    return Store(path)


@pytest.mark.parametrize("n", [0, 1, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 1, 2 * ROWS_PER_BATCH + 7])
def test_what_goes_in_comes_out(tmp_path, n):
    images, label, group, split = random_rows(n)
    store = written(tmp_path / "s.arrow", (images, label, group, split))
    assert len(store) == n
    np.testing.assert_array_equal(store.images(np.arange(n)), images)
    np.testing.assert_array_equal(store.label, label)
    np.testing.assert_array_equal(store.group, group)
    np.testing.assert_array_equal(store.split, split.astype(store.split.dtype))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2 * ROWS_PER_BATCH + 6), max_size=30))
def test_rows_come_in_the_order_asked_for_and_as_often(big_store, wanted):
    images, store = big_store
    np.testing.assert_array_equal(store.images(np.array(wanted, np.int64)), images[wanted])


@pytest.fixture(scope="module")
def big_store(tmp_path_factory):
    columns = random_rows(2 * ROWS_PER_BATCH + 7, seed=5)
    return columns[0], written(tmp_path_factory.mktemp("big") / "s.arrow", columns)


def test_the_manifest_comes_back(tmp_path):
    changes = {"positive": 1, "fingerprint": "abc", "notes": {"skipped": 2, "skipped_files": ["ü.jpg"]}}
    assert written(tmp_path / "s.arrow", random_rows(3), **changes).manifest == manifest(**changes)


def test_the_splits_part_the_rows(tmp_path):
    columns = random_rows(100)
    store = written(tmp_path / "s.arrow", columns)
    rows = {name: store.rows(name) for name in ("train", "val", "test")}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(100))
    for name, those in rows.items():
        assert those.tolist() == [i for i, split in enumerate(columns[3]) if split == name]


def test_images_are_mapped_and_copied_only_when_asked_for(tmp_path):
    columns = random_rows(4 * ROWS_PER_BATCH)
    write(tmp_path / "s.arrow", manifest(), zip(*columns))
    before = pa.total_allocated_bytes()
    store = Store(tmp_path / "s.arrow")
    assert pa.total_allocated_bytes() - before < columns[0].nbytes / 4
    assert not any(chunk.flags.owndata or chunk.flags.writeable for chunk in store._chunks)
    one = store.images(np.array([3]))
    one[:] = 0
    np.testing.assert_array_equal(store.images(np.array([3]))[0], columns[0][3])


def test_an_open_store_survives_its_file_being_replaced(tmp_path):
    first, second = random_rows(300, 1), random_rows(10, 2)
    store = written(tmp_path / "s.arrow", first)
    assert len(written(tmp_path / "s.arrow", second)) == 10
    np.testing.assert_array_equal(store.images(np.arange(300)), first[0])


def failing_rows():
    yield from zip(*random_rows(ROWS_PER_BATCH + 1))
    raise OSError("disk full")


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "s.arrow", manifest(), failing_rows())
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_old_file_whole(tmp_path):
    columns = random_rows(5)
    written(tmp_path / "s.arrow", columns)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "s.arrow", manifest(), failing_rows())
    np.testing.assert_array_equal(Store(tmp_path / "s.arrow").images(np.arange(5)), columns[0])
    assert [path.name for path in tmp_path.iterdir()] == ["s.arrow"]


def test_two_writers_at_once_both_succeed_and_one_wins_whole(tmp_path):
    barrier, errors = threading.Barrier(2), []
    contents = [random_rows(ROWS_PER_BATCH + 5, seed) for seed in (1, 2)]

    def run(columns):
        def rows():
            for i, row in enumerate(zip(*columns)):
                if i == ROWS_PER_BATCH:
                    barrier.wait(timeout=patience(20))  # both files are open and half written
                yield row

        try:
            write(tmp_path / "s.arrow", manifest(), rows())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(columns,)) for columns in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = Store(tmp_path / "s.arrow").images(np.arange(ROWS_PER_BATCH + 5))
    assert not errors and any(np.array_equal(result, columns[0]) for columns in contents)
    assert [path.name for path in tmp_path.iterdir()] == ["s.arrow"]


def test_an_image_of_another_size_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write(tmp_path / "s.arrow", manifest(), [(np.zeros((SIZE, SIZE + 1, 3), np.uint8), 0, 0, "train")])
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_takes_the_place_of_none(tmp_path):
    replace_atomically(tmp_path / "a.txt", lambda temporary: temporary.write_text("whole"))
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TUNE_FAIRLORA_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/tune-fairlora"),
        ({"HOME": "home"}, "home/.cache/tune-fairlora"),
    ],
)
def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, environment, expected):
    for name in ("TUNE_FAIRLORA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_folder() == tmp_path / expected and (tmp_path / expected).is_dir()
