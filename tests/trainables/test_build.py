"""Decoding into a store: what a kill, a second process, a repaired file and a huge image do to it."""

import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.processes import ROOT, patience, until
from trainables.config import ConfigError
from trainables.data.store import ROWS_PER_BATCH, Manifest, Store
from trainables.files import locked
from trainables.prepare import decode
from trainables.prepare.build import build, content_hash, parts_folder
from trainables.prepare.listing import Listing
from trainables.prepare.prepared import rows_of

SIZE = 24


def colour(i: int) -> tuple[int, int, int]:
    """Of image ``i`` (below 1,024), unlike all others even as a JPEG."""
    return 2 * (i % 128), 255 - 2 * (i % 128), (i // 128) * 20


def draw(folder, n: int) -> None:
    """JPEG files 0.jpg … whose colour is their number's."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        Image.new("RGB", (40, 30), colour(i)).save(folder / f"{i}.jpg", quality=95)


def job(folder, n: int, **changes) -> dict[str, object]:
    """Arguments of ``build``."""
    label = np.arange(n) % 3
    split = np.array(["train", "train", "val", "test"])[np.arange(n) % 4]
    files = [folder / f"{i}.jpg" for i in range(n)]
    listing = Listing(files, label, np.zeros(n, np.int64), split, ["a", "b", "c"], ["all"])
    return {"listing": listing, "root": folder, "workers": 2, **changes}


def made(path, task: dict[str, object], progress=None) -> Store:
    build(path, Manifest("x", SIZE, ["a", "b", "c"], ["all"]), **task, progress=progress)
    return Store(path)


def test_every_image_lies_in_its_row_and_nothing_else_is_left(tmp_path):
    n = ROWS_PER_BATCH + 44
    draw(tmp_path / "in", n)
    (tmp_path / "out").mkdir()
    seen = []
    store = made(tmp_path / "out/store.arrow", job(tmp_path / "in", n), lambda *step: seen.append(step))
    assert len(store) == n and store.label.tolist() == (np.arange(n) % 3).tolist()
    for row in (0, 255, 256, n - 1):
        assert abs(store.images(np.array([row]))[0].astype(int) - colour(row)).max() <= 4
    assert os.listdir(tmp_path / "out") == ["store.arrow"]
    assert seen == [(i, n) for i in range(1, n + 1)]
    assert (
        store.manifest.fingerprint == content_hash(store.manifest, rows_of(store))
        and store.manifest.notes["images"] == n
    )


BUILD = """
import time
from pathlib import Path
from tests.trainables import test_build
from trainables.prepare import decode
fast, out = decode.decode, Path({out!r})
def slowly(*args):
    time.sleep(0.004)
    while test_build.parts(out) >= {parts}:
        time.sleep(0.1)
    return fast(*args)
decode.decode = slowly
test_build.made(out, test_build.job(Path({source!r}), {n}))
"""


def start(tmp_path: Path, n: int, parts: float = math.inf) -> subprocess.Popen[bytes]:
    """A process of its own that decodes slowly, and behind so many ``parts`` waits to be killed."""
    names = {"out": str(tmp_path / "store.arrow"), "source": str(tmp_path / "in")}
    code = BUILD.format(n=n, parts=f"float('{parts}')", **names)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)


def parts(store: Path) -> int:
    """How many parts of the store are there, whole."""
    return len(list(parts_folder(store).glob("0*.npz")))


def test_a_killed_process_is_continued_where_it_was(tmp_path):
    n = 4 * ROWS_PER_BATCH
    draw(tmp_path / "in", n)
    process = start(tmp_path, n, parts=2)
    until(lambda: parts(tmp_path / "store.arrow") >= 2, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "store.arrow").exists() and parts(tmp_path / "store.arrow") >= 2
    decoded = []
    store = made(tmp_path / "store.arrow", job(tmp_path / "in", n), lambda done, total: decoded.append(done))
    assert len(decoded) <= n - 2 * ROWS_PER_BATCH + 2  # a part that was there counts as one step
    assert store.manifest.fingerprint == made(tmp_path / "again.arrow", job(tmp_path / "in", n)).manifest.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["again.arrow", "in", "store.arrow"]


def test_two_processes_that_make_the_same_store_do_not_harm_each_other(tmp_path):
    n = 2 * ROWS_PER_BATCH
    draw(tmp_path / "in", n)
    processes = [start(tmp_path, n) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=patience(120))
        assert process.returncode == 0, err.decode()
    store = Store(tmp_path / "store.arrow")
    assert len(store) == n and store.manifest.fingerprint == content_hash(store.manifest, rows_of(store))
    assert sorted(os.listdir(tmp_path)) == ["in", "store.arrow"]


def test_a_repaired_file_is_decoded_again_with_its_part_alone(tmp_path):
    n = 2 * ROWS_PER_BATCH
    draw(tmp_path / "in", n)
    (tmp_path / "in/3.jpg").write_bytes(b"\xff\xd8 no jpeg")
    (tmp_path / "in/9.jpg").unlink()
    with pytest.raises(ConfigError, match=r"1 image\(s\) are missing: 9.jpg; 1 image\(s\) are corrupt: 3.jpg; repair"):
        made(tmp_path / "store.arrow", job(tmp_path / "in", n))
    assert not (tmp_path / "store.arrow").exists()
    mended = [(200, 100, 50), (100, 200, 50)]
    for name, pixel in zip(("3.jpg", "9.jpg"), mended):
        Image.new("RGB", (40, 30), pixel).save(tmp_path / "in" / name)
    decoded = []
    store = made(tmp_path / "store.arrow", job(tmp_path / "in", n), lambda done, total: decoded.append(done))
    assert decoded == [*range(1, 257), 512]
    assert abs(store.images(np.array([3, 9])).astype(int) - np.array(mended)[:, None, None]).max() <= 4


def test_corrupt_files_can_be_left_out_and_are_listed(tmp_path):
    draw(tmp_path / "in", 12)
    (tmp_path / "in/5.jpg").write_bytes((tmp_path / "in/5.jpg").read_bytes()[:300])
    (tmp_path / "in/6.jpg").write_bytes(b"")
    store = made(tmp_path / "store.arrow", job(tmp_path / "in", 12, skip_corrupt=True))
    assert len(store) == 10 and store.label.tolist() == [i % 3 for i in range(12) if i not in (5, 6)]
    assert store.manifest.notes["skipped_files"] == ["5.jpg", "6.jpg"] and store.manifest.notes["skipped"] == 2


def test_a_class_that_only_corrupt_images_show_is_refused(tmp_path):
    draw(tmp_path / "in", 6)
    task = job(tmp_path / "in", 6, skip_corrupt=True)
    for i in (0, 1, 4, 5):  # the training images
        (tmp_path / f"in/{i}.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="every label must have a training image"):
        made(tmp_path / "store.arrow", task)
    assert not (tmp_path / "store.arrow").exists()


def test_too_little_space_is_said_before_the_work(tmp_path):
    draw(tmp_path / "in", 1)
    many = job(tmp_path / "in", 12)["listing"].only(np.arange(1_000_000) % 12)
    with pytest.raises(ConfigError, match=r"GB must be free in .* to prepare"):
        build(tmp_path / "store.arrow", Manifest("x", 1024, many.classes, many.groups), many, tmp_path, workers=1)
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_a_lock_is_given_on_and_leaves_no_file(tmp_path):
    """Many short holders, each of which removes the lock's file: never two inside at once."""
    code = """
import sys, time
from pathlib import Path
from trainables.prepare.build import locked
for _ in range(200):
    with locked(Path(sys.argv[1])):
        Path(sys.argv[2]).mkdir()  # fails where another is inside
        Path(sys.argv[2]).rmdir()
"""
    argv = [sys.executable, "-c", code, str(tmp_path / "x"), str(tmp_path / "inside")]
    holders = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(4)]
    for holder in holders:
        _, err = holder.communicate(timeout=patience(60))
        assert holder.returncode == 0, err.decode()
    with locked(tmp_path / "x"):
        assert os.listdir(tmp_path) == [".x.lock"]
    assert os.listdir(tmp_path) == []


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    """Against decoding it whole: within what a resize in two steps may differ."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (20, 27, 3), np.uint8))
    coarse.resize((2700, 2000), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=92)
    with Image.open(tmp_path / "large.jpg") as image:
        whole = decode.square(image.convert("RGB"), 112)
    small = decode.decode(tmp_path / "large.jpg", 112)
    assert abs(small.astype(int) - whole).mean() < 2.5 and abs(small.astype(int) - whole).max() < 24


def test_a_banner_is_cut_off_whatever_the_size(tmp_path):
    for height in (140, 2000):
        pixels = np.full((height, 2000, 3), 90, np.uint8)
        pixels[-20:] = 255
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
        assert decode.decode(tmp_path / "a.jpg", 64, banner=20).max() < 110
        assert decode.decode(tmp_path / "a.jpg", 64).max() > 150
    Image.new("RGB", (30, 10), "red").save(tmp_path / "low.png")
    assert decode.decode(tmp_path / "low.png", 16, banner=20).shape == (16, 16, 3)


def test_another_banner_is_another_image(tmp_path):
    """The parts of a broken-off preparation are taken only for the same pixels."""
    draw(tmp_path / "in", 8)
    (tmp_path / "in/0.jpg").write_bytes(b"")
    names = []
    for banner in (0, 10):
        task = job(tmp_path / "in", 8)
        with pytest.raises(ConfigError, match="corrupt"):
            made(tmp_path / "store.arrow", task | {"listing": replace(task["listing"], banner=banner)})
        names += [part.name for part in parts_folder(tmp_path / "store.arrow").iterdir()]
    assert len(names) == len(set(names)) == 2


def test_a_resumed_preparation_needs_room_only_for_what_is_missing(tmp_path, monkeypatch):
    draw(tmp_path / "in", 8)
    (tmp_path / "in/4.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="corrupt"):
        made(tmp_path / "store.arrow", job(tmp_path / "in", 8))
    needed = 2 * 8 * SIZE**2 * 3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(0.7 * needed)))
    with pytest.raises(ConfigError, match="must be free"):
        made(tmp_path / "other.arrow", job(tmp_path / "in", 8))
    assert len(made(tmp_path / "store.arrow", job(tmp_path / "in", 8, skip_corrupt=True))) == 7


def test_what_a_process_killed_while_joining_left_is_removed(tmp_path):
    draw(tmp_path / "in", 8)
    (tmp_path / ".store.arrow.0123.tmp").write_bytes(b"torn")
    made(tmp_path / "store.arrow", job(tmp_path / "in", 8))
    assert sorted(os.listdir(tmp_path)) == ["in", "store.arrow"]
