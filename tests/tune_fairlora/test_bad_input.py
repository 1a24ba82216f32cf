"""Every mistake of a user is one clear line and exit status 2, and leaves nothing behind."""

import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.processes import patience
from tune_fairlora import cli


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The user's current folder: what a failed command leaves in it is compared with what was there."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def fails(capsys, *argv: str) -> str:
    """The line that the command prints; it must be the only one, with status 2, and no file may have come or gone."""
    before = sorted(Path().rglob("*"))
    assert cli.main(["search", *argv]) == 2
    _, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert sorted(Path().rglob("*")) == before
    return lines[0]


@pytest.fixture(params=["--dry-run", pytest.param("", marks=pytest.mark.slow)], ids=["dry", "ray"])
def ray(request) -> list[str]:
    """Of a check that is made while Ray starts: without Ray, and, slowly, with one, which the mistake ends."""
    return [request.param] * bool(request.param)


def photos(
    folder: Path, rows: list[str], header="file_path,label,split", images=("a.png", "b.png", "c.png", "d.png")
) -> str:
    folder.mkdir()
    for i, name in enumerate(images):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(folder / name)
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder)


GOOD = ["a.png,0,train", "b.png,1,train", "c.png,0,val", "d.png,1,val"]


def test_a_front_cannot_be_confirmed_without_a_test_split(empty_folder, capsys):
    data = photos(empty_folder / "p", GOOD)
    line = fails(capsys, *folder_search(data, "--weights", "random", "--confirm", "--dry-run"))
    assert "--confirm needs a test split, but the data set has none: leave it out" in line


def folder_search(data: str, *more: str) -> list[str]:
    return ["--space", "folder_vit_tiny", "--image-size", "32", "--data", data, *more]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--space", "digit"], "unknown space 'digit', did you mean digits? known: aircraft_clip, aircraft_dino"),
        ([], "--space is needed"),
        (["--space", "none.py"], "must be a file, but does not exist"),
        (["--space", "digits", "--methods", "lora,dora"], "unknown method 'dora', did you mean lora"),
        (["--space", "digits", "--set", "rang=3"], "unknown hyperparameter 'rang', did you mean rank? known: alpha,"),
        (["--space", "digits", "--set", "rank"], "--set takes key=value, but got rank"),
        (["--space", "digits", "--set", "rank=-1"], "`rank >= 0` must hold, but got rank=-1"),
        (["--space", "digits", "--set", "rank=many"], "`rank is a whole number` must hold, but got rank=many"),
        (["--space", "digits", "--epochs", "0"], "`epochs >= 1` must hold, but got epochs=0"),
        (["--space", "digits", "--set", "per_group=8"], "per_group has no effect while balance=none"),
        (["--space", "digits", "--set", "head=zeroshot"], "`head = zeroshot` needs a CLIP backbone"),
        (["--space", "geode_clip"], "geode needs as --data a prepared folder"),
        (["--space", "geode_clip", "--data", "."], "make one with `python -m tune_fairlora.prepare geode"),
        (["--space", "digits", "--objectives", "val_accuracy"], "must have 2 or 3 different objectives"),
        (["--space", "digits", "--objectives", "val_accuracy,val_accuracy"], "2 or 3 different objectives"),
        (["--space", "digits", "--objectives", "val_accuracy,test_loss"], "test_loss"),
        (["--space", "digits", "--constraint", "val_acc>=0.9"], "val_acc"),
        (["--space", "digits", "--constraint", "val_accuracy"], 'takes "metric>=number"'),
        (["--space", "digits", "--constraint", "val_loss<=1", "--constraint", "val_loss>=2"], "can never hold"),
        (["--space", "digits", "--enqueue", "no.json"], "--enqueue no.json must be a file that can be read"),
        (
            ["--space", "digits", "--scheduler", "asha"],
            "unknown scheduler 'asha', did you mean moasha? known: moa",
        ),
        (["--space", "digits", "--reduction-factor", "1"], "--reduction-factor: at least 2 must be given, but got 1"),
        (["--space", "digits", "--trial-timeout", "10"], "a time must be like 30m"),
        (["--space", "digits", "--trials", "0"], "a number >= 1, whole must be given, but got 0"),
        (["--space", "digits", "--trails", "3"], "unrecognized arguments: --trails 3, did you mean --trials?"),
        (["--space", "digits", "--sampler", "tpee"], "unknown sampler 'tpee', did you mean tpe?"),
        (["--space", "digits", "--data", "x"], "the digits come with scikit-learn and take no --data"),
        (["--space", "digits", "--image-size", "32"], "`image_size = 16` must hold for vit_nano"),
        (["--space", "folder_vit_tiny"], "data set folder needs as --data the folder with metadata.csv"),
        (folder_search("nowhere"), "--data must be a folder, but nowhere is not"),
        (folder_search(".", "--image-size", "33"), "--image-size must be a multiple of vit_tiny's patch"),
        (["--space", "digits", "--weights", "none.safetensors"], "none.safetensors is no file"),
        (
            ["--space", "digits", "--name", "../up"],
            "--name must be a plain folder name of at most 200 bytes, but got '../up'",
        ),
        (["--space", "digits", "--tracking-uri", "mlruns"], "--tracking-uri must be a server"),
        (["--space", "digits", "--tracking-uri", "http://127.0.0.1:9"], "--tracking-uri http://127.0.0.1:9 does not"),
        (["--space", "digits", "--address", "127.0.0.1:9"], "--address 127.0.0.1:9 does not answer"),
        (["--space", "digits", "--address", "nonsense"], "--address must be host:port"),
        (["--space", "digits", "--address", "ray://127.0.0.1:10001"], "does not answer"),
        (["--space", "digits", "--cpus-per-trial", "0"], "a number > 0 must be given, but got 0"),
        (["--space", "digits", "--tracking-uri", "http://a b:5000"], "--tracking-uri http://a b:5000 does not answer"),
        (["--space", "digits", "--tracking-uri", "sqlite:///a#b.db"], "must be free of ?, # and %"),
        (["--space", "digits", "--tracking-uri", "sqlite:////dev/null/x.db"], "must be a file that can be written"),
        (["--space", "digits", "--experiment", ""], "--experiment: a name must be given, but it is empty"),
        (["--space", "digits", "--storage", "/dev/null"], "--storage must be a folder that can be written"),
        (["--space", "digits", "--name", "n" * 300], "--name must be a plain folder name of at most 200 bytes"),
        (["--space", "digits", "--name", "a\udce9"], "--name must be a plain folder name"),  # Latin-1 in a shell
        (["--space", "digits", "--name", "a\nb"], "--name must be a plain folder name"),
        (["--space", "digits", "--epochs", "2", "--set", "epochs=3"], "epochs is set twice"),
        (["--space", "digits", "--set", "lr=0.1", "--set", "lr=0.2"], "lr is set twice"),
        (["--space", "digits", "--methods", "lora", "--set", "lam=3"], "none of them has lam"),
        (["--space", "digits", "--methods", "lora,lora"], "methods must be given once each"),
        (["--space", "digits", "--methods", ""], "unknown method ''"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, argv, message):
    assert message in fails(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "last_blocks=99"], "`last_blocks <= "),
        (["--seed", "2147483647", "--seeds", "2"], "`seed <= 2147483647` must hold"),
        (["--sampler", "grid"], "lr is continuous: pin it with --set lr"),
        (["--sampler", "grid"], "a grid needs finite choices, but lr is continuous"),
    ],
)
def test_an_option_that_is_found_wrong_while_ray_starts_is_one_line(capsys, ray, argv, message):
    assert message in fails(capsys, "--space", "digits", *argv, *ray)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (GOOD, "path,label,split", "must have the column file_path, but has path"),
        (["a.png,0,train", "b.png,0,val"], "file_path,label,split", "needs at least 2 classes, but"),
        (["a.png,0,train", "b.png,1,val"], "file_path,label,split", "every label must have a training image, but '1'"),
        ([*GOOD, "e.png,1,val", "f.png,1,val"], "file_path,label,split", "2 image(s) are missing: e.png, f.png"),
        (["a.png,0,train", "b.png,1,train"], "file_path,label,split", "needs validation images"),
        (["../a.png,0,train", *GOOD], "file_path,label,split", "file_path must stay inside the folder"),
        ([], "file_path,label,split", "must list images, but has no rows"),
    ],
)
def test_a_wrong_table_is_one_line(capsys, empty_folder, rows, header, message):
    assert message in fails(capsys, *folder_search(photos(empty_folder / "p", rows, header)))


def test_a_subject_in_two_given_splits_is_one_line(capsys, empty_folder):
    rows = ["a.png,0,train,p", "b.png,1,train,q", "c.png,0,val,q", "d.png,1,val,r"]
    line = fails(capsys, *folder_search(photos(empty_folder / "p", rows, "file_path,label,split,subject")))
    assert "1 subject(s) have images in two splits, such as 'q' in train and val: mend the table" in line
    assert line.endswith("or pass --allow-overlap")


def test_an_image_in_two_splits_is_one_line(capsys, empty_folder):
    data = photos(empty_folder / "p", GOOD)
    Image.open(Path(data, "a.png")).save(Path(data, "c.png"))
    line = fails(capsys, *folder_search(data))
    assert "1 image(s) are identical to one of another split or label, such as c.png (val, '0') to a.png" in line
    assert line.endswith("or pass --allow-overlap")


def test_a_folder_without_a_table_is_one_line(capsys, empty_folder):
    (empty_folder / "p").mkdir()
    assert "must hold a metadata.csv" in fails(capsys, *folder_search("p"))


def test_corrupt_images_are_all_named(capsys, empty_folder):
    data = photos(empty_folder / "p", GOOD)
    for name in ("a.png", "c.png"):
        path = Path(data) / name
        path.write_bytes(path.read_bytes()[:40])
    assert "2 image(s) are corrupt: a.png, c.png; repair them or pass --skip-corrupt" in fails(
        capsys, *folder_search(data)
    )


def test_weights_of_another_architecture_name_the_first_misfits(capsys, empty_folder, ray):
    import timm

    other = timm.create_model("vit_small_patch16_224", num_classes=0)
    safetensors.torch.save_file(other.state_dict(), "small.safetensors")
    line = fails(capsys, *folder_search(photos(empty_folder / "p", GOOD), "--weights", "small.safetensors"), *ray)
    assert "do not fit vit_tiny: cls_token has shape (1, 1, 384), expected (1, 1, 192); pos_embed" in line


def test_corrupt_weights_are_one_line(capsys, empty_folder, ray):
    Path("broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken")
    line = fails(capsys, *folder_search(photos(empty_folder / "p", GOOD), "--weights", "broken.safetensors"), *ray)
    assert "broken.safetensors is corrupt or no weights file" in line


def test_weights_that_would_run_code_are_refused(capsys, empty_folder, ray):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (Path(empty_folder / "exploded"),)

    torch.save({"state_dict": Bomb()}, "bomb.pt")
    line = fails(capsys, *folder_search(photos(empty_folder / "p", GOOD), "--weights", "bomb.pt"), *ray)
    assert "bomb.pt is corrupt or no weights file" in line


def test_a_space_file_with_a_syntax_error_names_the_line(capsys):
    Path("mine.py").write_text("SPACE = Space(\n")
    assert "--space mine.py, line 1: '(' was never closed" in fails(capsys, "--space", "mine.py")


def test_a_name_that_exists_is_refused(capsys):
    Path("runs/old").mkdir(parents=True)
    assert "--name must be new, but runs/old exists already" in fails(capsys, "--space", "digits", "--name", "old")


@pytest.mark.parametrize(
    ("change", "asked"),
    [("objectives=('val_accuracy', 'val_min_group_accuracy')", "val_min_group_accuracy"), ("", "groups=sensitive")],
)
def test_groups_that_the_data_lack_are_refused(capsys, empty_folder, ray, change, asked):
    space = f"dataclasses.replace(SPACES['folder_vit_tiny'], {change})"
    Path("mine.py").write_text(f"from search_spaces import SPACES\nimport dataclasses\nSPACE = {space}\n")
    argv = ["--space", "mine.py", "--image-size", "32", "--data", photos(empty_folder / "p", GOOD)]
    argv += ["--set", "groups=sensitive"] if asked.startswith("groups") else []
    assert f"{asked} needs at least two groups: metadata.csv must have" in fails(capsys, *argv, *ray)


def test_a_validation_split_of_one_class_has_no_gap_to_search(capsys, empty_folder, ray):
    line = fails(capsys, *folder_search(photos(empty_folder / "p", GOOD[:3])), *ray)
    assert "objective val_delta_f1 has no value on this validation split" in line


def test_an_objective_without_values_on_this_split_is_refused_before_the_first_trial(capsys, empty_folder, ray):
    Path("mine.py").write_text(
        "from search_spaces import SPACES\nimport dataclasses\n"
        "SPACE = dataclasses.replace(SPACES['folder_vit_tiny'], objectives=('val_accuracy', 'val_eod_max'))\n"
    )
    rows = [f"{row},{group}" for row, group in zip(GOOD, "ababab")]  # no class has both groups in val
    data = photos(empty_folder / "p", rows, "file_path,label,split,group")
    line = fails(capsys, "--space", "mine.py", "--image-size", "32", "--data", data, *ray)
    assert "objective val_eod_max has no value on this validation split" in line  # one image of each class


def test_a_file_that_is_no_database_is_refused(capsys):
    Path("notes.db").write_text("no database, but long enough to be looked at as one" * 40)
    line = fails(capsys, "--space", "digits", "--tracking-uri", "sqlite:///notes.db")
    assert "--tracking-uri must be a sqlite database, but" in line


def test_a_server_that_speaks_something_else_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), daemon=True).start()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert f"--tracking-uri {uri} does not answer" in fails(capsys, "--space", "digits", "--tracking-uri", uri)


SILENT = [("--tracking-uri", "http://{}"), pytest.param(("--address", "{}"), marks=pytest.mark.slow)]


@pytest.mark.parametrize("option", SILENT)
def test_a_port_that_accepts_and_stays_silent_is_given_up_within_20_seconds(capsys, option):
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        threading.Thread(target=lambda: held.extend(server.accept() for _ in range(9)), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        line = fails(capsys, "--space", "digits", option[0], option[1].format(address))
        assert address in line and time.monotonic() - start < patience(20)


@pytest.mark.slow
def test_gpus_where_ray_has_none_are_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "--gpus-per-trial 1 fits on no node: this Ray's largest node has" in fails(
        capsys, "--space", "digits", "--gpus-per-trial", "1"
    )
