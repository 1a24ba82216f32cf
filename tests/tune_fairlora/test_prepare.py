"""From the authors' files to a store that a search reads: the command, its manifest, its mistakes."""

import dataclasses
import functools
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from tests import drawn
from tests.processes import patience
from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.prepare import datasets, sources
from tune_fairlora import cli

DRAW = {
    "geode": drawn.draw_geode,
    "waterbirds": drawn.draw_waterbirds,
    "aircraft": drawn.draw_aircraft,
    "utkface_gender": drawn.draw_utkface,
    "utkface_age": drawn.draw_utkface,
}
# name: classes, groups, images of train, val and test as drawn
EXPECTED = {
    "geode": (40, 6, (173, 19, 48)),
    "waterbirds": (2, 2, (140, 60, 60)),
    "aircraft": (100, 10, (200, 200, 200)),
    "utkface_gender": (2, 5, (218, 24, 60)),
    "utkface_age": (9, 5, (218, 24, 60)),
}


def counts(manifest: dict) -> tuple[int, ...]:
    return tuple(manifest["splits"][split]["images"] for split in ("train", "val", "test"))


def run(*argv: object) -> int:
    return cli.main(["prepare", *map(str, argv)])


@pytest.fixture(scope="module")
def waterbirds(tmp_path_factory):
    """A prepared Waterbirds of 260 drawn images at 64 px."""
    folder = tmp_path_factory.mktemp("waterbirds")
    source = drawn.draw_waterbirds(folder)
    assert run("waterbirds", "--source", source, "--out", folder / "out", "--size", 64) == 0
    return folder / "out"


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize("name", DRAW)
def test_an_archive_in_the_official_layout_becomes_a_store_with_its_manifest(tmp_path, capsys, name, suffix):
    source = drawn.archive(DRAW[name](tmp_path), tmp_path / f"official{suffix}")
    assert run(name, "--source", source, "--out", tmp_path / "out", "--size", 48) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    classes, groups, splits = EXPECTED[name]
    assert (len(manifest["classes"]), len(manifest["groups"]), counts(manifest)) == (classes, groups, splits)
    assert manifest["name"] == name and manifest["source"]["name"] == f"official{suffix}"
    assert manifest["licence"] == sources.SOURCES[name].licence and len(manifest["source"]["sha256"]) == 64
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.json", "store.arrow"]
    store = Store(tmp_path / "out/store.arrow")
    assert store.manifest.fingerprint == manifest["content_hash"] and len(store) == sum(splits)
    for split, total in zip(("train", "val", "test"), splits):
        table = np.array(manifest["splits"][split]["class_x_group"])
        assert table.shape == (classes, groups) and table.sum() == total
    assert f"ready   {tmp_path / 'out'}" in capsys.readouterr().out


def test_the_oddities_of_utkface_are_listed_and_the_positive_class_is_female(tmp_path, capsys):
    source = drawn.draw_utkface(tmp_path)
    assert run("utkface", "--task", "gender", "--source", source, "--out", tmp_path / "out", "--size", 32) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["classes"][manifest["positive"]] == "female"
    assert len(manifest["notes"]["left_out"]) == 3 and len(manifest["notes"]["odd_names_kept"]) == 2
    out = capsys.readouterr().out
    assert "left_out" in out and "39_1_20170116174525125.jpg.chip.jpg: no race" in out


def test_banners_of_aircraft_are_cut_off(tmp_path):
    """The drawn banners are black and white; the photographs above them are never as bright in all three channels."""
    source = drawn.draw_aircraft(tmp_path)
    assert run("aircraft", "--source", source, "--out", tmp_path / "out", "--size", 64) == 0
    store = Store(tmp_path / "out/store.arrow")
    lowest = store.images(np.arange(len(store)))[:, -12:]
    assert (lowest.min(axis=-1) > 200).mean() < 0.001


def test_the_same_command_again_finds_the_work_done(waterbirds, capsys):
    before = (waterbirds / "store.arrow").stat().st_mtime_ns
    source = waterbirds.parent / "waterbird_complete95_forest2water2"
    assert run("waterbirds", "--source", source, "--out", waterbirds, "--size", 64) == 0
    assert (waterbirds / "store.arrow").stat().st_mtime_ns == before
    assert run("waterbirds", "--source", source, "--out", waterbirds, "--size", 32) == 2
    assert "holds waterbirds at 64 px already" in capsys.readouterr().err


def test_another_source_is_not_passed_off_as_the_first(waterbirds, tmp_path, capsys):
    other = drawn.draw_waterbirds(tmp_path, seed=7)
    assert run("waterbirds", "--source", other, "--out", waterbirds, "--size", 64) == 2
    assert "was made from another source than" in capsys.readouterr().err
    packed = drawn.archive(other, tmp_path / "birds.zip")
    assert run("waterbirds", "--source", packed, "--out", waterbirds, "--size", 64) == 2
    assert "was made from another source than" in capsys.readouterr().err


def test_a_store_without_its_manifest_is_made_anew(waterbirds, tmp_path):
    """As a kill between the two leaves it, or somebody who removed the manifest."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/store.arrow").write_bytes((waterbirds / "store.arrow").read_bytes())
    assert run("geode", "--source", drawn.draw_geode(tmp_path), "--out", tmp_path / "out", "--size", 32) == 0
    assert Store(tmp_path / "out/store.arrow").manifest.name == "geode" and run("--check", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "changes",
    [{"format": 9}, {"size": "64"}, {"content_hash": 5}, {"content_hash": "../../x"}, {"name": None}, {"notes": []}],
)
def test_a_manifest_that_is_not_sound_or_of_another_store_is_one_line(waterbirds, tmp_path, changes, capsys):
    content = json.loads((waterbirds / "manifest.json").read_text()) | changes
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError):
        datasets.prepare("waterbirds", tmp_path, 32)  # no store beside it, either
    (tmp_path / "store.arrow").write_bytes((waterbirds / "store.arrow").read_bytes())
    with pytest.raises(ConfigError):
        datasets.prepare("waterbirds", tmp_path, 32)


def test_corrected_names_make_another_store_at_every_size(tmp_path):
    """The resized copy in the cache must not keep the old names."""
    (tmp_path / "in").mkdir()
    names = [["dog", "cat"], ["cat", "dog"]]
    for number, (zero, one) in enumerate(names):
        rows = ["file_path,label,label_name,split"]
        for i in range(6):
            drawn._photo((40, 40), i % 2, 0, np.random.default_rng(i)).save(tmp_path / f"in/{i}.png")
            rows.append(f"{i}.png,{i % 2},{(zero, one)[i % 2]},{('train', 'train', 'val')[i // 2]}")
        (tmp_path / "in/metadata.csv").write_text("\n".join(rows))
        assert run("folder", "--source", tmp_path / "in", "--out", tmp_path / str(number), "--size", 32) == 0
        for size in (32, 16):
            store = Store(datasets.prepare("folder", tmp_path / str(number), size))
            assert store.manifest.classes == [zero, one] and store.manifest.size == size


def test_a_search_takes_the_store_as_it_is_or_smaller_and_never_larger(waterbirds):
    assert datasets.prepare("waterbirds", waterbirds, 64) == waterbirds / "store.arrow"
    small = Store(datasets.prepare("waterbirds", waterbirds, 16))
    large = Store(waterbirds / "store.arrow")
    assert small.manifest.size == 16 and small.label.tolist() == large.label.tolist()
    assert small.split.tolist() == large.split.tolist()
    means = [store.images(np.array([5]))[0].mean(axis=(0, 1)) for store in (small, large)]
    assert abs(means[0] - means[1]).max() < 3
    assert datasets.prepare("waterbirds", waterbirds, 16) == small.path
    with pytest.raises(ConfigError, match=r"`image_size <= 64` must hold .* prepare it again at 96 px"):
        datasets.prepare("waterbirds", waterbirds, 96)
    with pytest.raises(ConfigError, match=r"the space wants data set geode, but .* holds waterbirds"):
        datasets.prepare("geode", waterbirds, 64)


def test_check_finds_a_store_that_differs_from_its_manifest(waterbirds, tmp_path, capsys):
    assert run("--check", waterbirds) == 0
    assert "the store is what its manifest says" in capsys.readouterr().out
    for name in ("store.arrow", "manifest.json"):
        (tmp_path / name).write_bytes((waterbirds / name).read_bytes())
    content = bytearray((tmp_path / "store.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "store.arrow").write_bytes(content)
    assert run("--check", tmp_path) == 1
    assert "content_hash is" in capsys.readouterr().err
    (tmp_path / "store.arrow").write_bytes(content[: len(content) // 2])
    assert run("--check", tmp_path) == 1
    assert "store.arrow cannot be read" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{")
    assert run("--check", tmp_path) == 2
    assert run("--check", tmp_path / "nowhere") == 2


def test_damaged_images_are_named_and_can_be_left_out(tmp_path, capsys):
    source = drawn.draw_waterbirds(tmp_path)
    damaged = sorted(source.rglob("*.jpg"))[:2]
    damaged[0].write_bytes(damaged[0].read_bytes()[:200])
    damaged[1].unlink()
    argv = ("waterbirds", "--source", source, "--out", tmp_path / "out", "--size", 32)
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and damaged[0].name in err and damaged[1].name in err and "--skip-corrupt" in err
    assert not (tmp_path / "out/store.arrow").exists()
    assert run(*argv, "--skip-corrupt") == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["notes"]["skipped"] == 2 and sum(counts(manifest)) == 258


def test_what_stands_twice_is_refused_until_it_is_allowed_and_then_printed(tmp_path, capsys):
    source = drawn.draw_waterbirds(tmp_path)
    table = pd.read_csv(source / "metadata.csv")
    first, last = (table[table["split"] == split]["img_filename"].iloc[0] for split in (0, 2))
    (source / last).write_bytes((source / first).read_bytes())
    argv = ("waterbirds", "--source", source, "--out", tmp_path / "out", "--size", 32)
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert "1 image(s) are identical to one of another split or label" in err and err.count("\n") == 1
    assert first in err and last in err and "--allow-overlap" in err
    assert run(*argv, "--allow-overlap") == 0
    assert "note    overlap: 1 image(s) are identical to one of another split" in capsys.readouterr().out
    assert datasets.prepare("waterbirds", tmp_path / "out", 32) == tmp_path / "out/store.arrow"  # it was agreed to


def test_subjects_are_counted(tmp_path, capsys):
    rows = ["file_path,label,subject,split"]
    (tmp_path / "in").mkdir()
    for i in range(12):
        drawn._photo((40, 40), i % 2, 0, np.random.default_rng(i)).save(tmp_path / f"in/{i}.png")
        rows.append(f"{i}.png,{i % 2},p{i // 3},{('train', 'train', 'train', 'val')[i // 3]}")
    (tmp_path / "in/metadata.csv").write_text("\n".join(rows))
    assert run("folder", "--source", tmp_path / "in", "--out", tmp_path / "out", "--size", 32) == 0
    out = capsys.readouterr().out
    assert "train  9 images of 3 subject(s)" in out and "val    3 images of 1 subject(s)" in out


class Broken(http.server.SimpleHTTPRequestHandler):
    """Breaks the connection in the midst of the first answer; knows ranges, as real servers do."""

    broken = 0

    def do_GET(self):
        path = self.translate_path(self.path)
        size, start = os.path.getsize(path), 0
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read()
        if not Broken.broken:
            Broken.broken += 1
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def test_a_download_that_is_no_archive_is_fetched_again(tmp_path, monkeypatch, capsys):
    """A server's page of excuses under the archive's address, and then the archive."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "birds.tar.gz").write_bytes(b"<html>come back later</html>")
    Broken.broken = 1
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Broken, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    row = sources.SOURCES["waterbirds"]
    address = f"http://127.0.0.1:{server.server_port}/birds.tar.gz"
    monkeypatch.setitem(sources.SOURCES, "waterbirds", dataclasses.replace(row, address=address))
    argv = ("waterbirds", "--download", "--out", tmp_path / "out", "--size", 32)
    assert run(*argv) == 2 and "archive" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    drawn.archive(drawn.draw_waterbirds(tmp_path), tmp_path / "birds.tar.gz").replace(served / "birds.tar.gz")
    assert run(*argv) == 0
    server.shutdown()


def test_a_download_that_breaks_half_way_ends_as_a_store(tmp_path, monkeypatch, capsys):
    """The server and the archive are real; only the address in the table is another."""
    served = tmp_path / "served"
    served.mkdir()
    drawn.archive(drawn.draw_waterbirds(tmp_path), served / "birds.tar.gz")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Broken, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/birds.tar.gz"
    row, Broken.broken = sources.SOURCES["waterbirds"], 0
    monkeypatch.setitem(sources.SOURCES, "waterbirds", dataclasses.replace(row, address=address))
    assert run("waterbirds", "--download", "--out", tmp_path / "out", "--size", 32) == 0, capsys.readouterr().err
    server.shutdown()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert Broken.broken == 1 and manifest["source"]["address"] == address and counts(manifest) == (140, 60, 60)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "NAME must be one of geode, waterbirds"),
        (["cifar"], "NAME must be one of"),
        (["geode"], "--out DIR is needed"),
        (["geode", "--out", "o"], "geode needs --source (files: https://geodiverse"),
        (["geode", "--out", "o", "--download"], "geode has no direct address: get it from https://geodiverse"),
        (["utkface_age", "--out", "o", "--download"], "terms: non-commercial research only"),
        (["utkface", "--out", "o", "--source", "."], "say utkface --task gender or --task age"),
        (["geode", "--task", "age", "--out", "o", "--source", "."], "--task belongs to utkface"),
        (["waterbirds", "--out", "o"], "waterbirds needs --download, or --source"),
        (["waterbirds", "--out", "o", "--source", "gone"], "gone does not exist"),
        (["waterbirds", "--out", "o", "--source", ".", "--download"], "either --source or --download"),
        (["waterbirds", "--out", "o", "--source", ".", "--size", "4"], "`8 <= size <= 1024` must hold"),
        (["waterbirds", "--out", "o", "--source", ".", "--size", "x"], "a number >= 1, whole must be given"),
        (["waterbirds", "--out", "o", "--source", "."], "must hold metadata.csv"),
        (["digits", "--out", "o", "--source", "."], "take neither --source nor --download"),
        (["folder", "--out", "o", "--source", "."], "must hold metadata.csv"),
        (["digits", "--out", "/proc/nope/x"], "must be a folder that can be written"),
        (["digits", "--out", "x" * 300], "must be a folder that can be written"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_an_archive_that_is_none_or_another_data_set_is_one_line(tmp_path, capsys):
    (tmp_path / "a.tar.gz").write_bytes(b"no archive" * 50)
    other = drawn.archive(drawn.draw_utkface(tmp_path), tmp_path / "faces.tar.gz")
    for source in (tmp_path / "a.tar.gz", other):
        assert run("waterbirds", "--source", source, "--out", tmp_path / "out") == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_the_list_needs_neither_torch_nor_a_data_set():
    code = "import sys, tune_fairlora.cli as cli; cli.main(['prepare', '--list']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*sources.SOURCES, "digits", "CC BY 4.0", "non-commercial"))


def test_digits_and_folders_can_be_prepared_too(tmp_path, signdigits):
    assert run("digits", "--out", tmp_path / "digits") == 0 and run("--check", tmp_path / "digits") == 0
    ours, usual = (Store(datasets.prepare("digits", source, 16)) for source in (tmp_path / "digits", None))
    assert (ours.images(np.arange(50)) == usual.images(np.arange(50))).all()
    assert run("folder", "--source", signdigits, "--out", tmp_path / "signs", "--size", 32) == 0
    assert run("--check", tmp_path / "signs") == 0
    assert counts(json.loads((tmp_path / "signs/manifest.json").read_text())) == (1244, 411, 407)


SMALL = {"clip": "clip_b32", "dino": "vit_tiny", "vit": "vit_tiny", "swinv2": "swinv2_t"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "space", ["geode_clip", "waterbirds_dino", "aircraft_vit", "utkface_gender_swinv2", "utkface_age_vit"]
)
def test_a_drawn_archive_goes_all_the_way_to_a_front(tmp_path, space):
    """Prepared, searched with four trials on a small backbone of random weights, recorded with the right names."""
    import mlflow

    name, backbone = space.rpartition("_")[::2]
    source = drawn.archive(DRAW[name](tmp_path), tmp_path / "official.tar.gz")
    assert run(name, "--source", source, "--out", tmp_path / "data", "--size", 64) == 0
    argv = [
        "--space",
        space,
        "--data",
        tmp_path / "data",
        "--weights",
        "random",
        "--image-size",
        64 if backbone == "swinv2" else 32,
    ]
    argv += ["--set", f"backbone={SMALL[backbone]}", "--set", "rank=8", "--trials", 4, "--epochs", 1, "--name", "s"]
    command = [sys.executable, "-m", "tune_fairlora.search", *map(str, argv)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(600))
    table = pd.read_parquet(tmp_path / "runs/s/trials.parquet")
    assert len(table) == 4 and set(table["method"]) == {"lora", "fairlora", "fft", "fairfft"}
    assert set(table["status"]) <= {"complete", "collapsed"}, done.stdout
    settings = json.loads((tmp_path / "runs/s/search.json").read_text())
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    assert settings["classes"] == manifest["classes"] and settings["groups"] == manifest["groups"]
    assert settings["weights"] == "random" and settings["data_fingerprint"] == manifest["content_hash"]
    assert [c for c in table if c.startswith("val_group_accuracy")] == [
        f"val_group_accuracy[{g}]" for g in manifest["groups"]
    ]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])
    parent = next(r for r in runs if r.data.tags["role"] == "search")
    assert parent.data.params["data"] == name and parent.data.params["weights"] == "random"
