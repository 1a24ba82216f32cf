"""Archives as attackers, bad disks and bad networks make them: a complete folder or one clear line, nothing outside."""

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainables.config import ConfigError
from trainables.prepare.unpack import opened_source, unpack

FILES = {
    "set/index.csv": b"a,b\n" * 50,
    "set/images/1.jpg": random.Random(0).randbytes(9000),
    "set/Ünïcode 2.jpg": b"2",
}
KINDS = ("tar", "tar.gz", "tar.bz2", "tar.xz", "zip")


def pack(path: Path, files: dict[str, bytes] = FILES) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:" + {"gz": "gz", "bz2": "bz2", "xz": "xz"}.get(path.suffix[1:], "")) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        good = tarfile.TarInfo("good.txt")
        good.size = 4
        archive.addfile(good, io.BytesIO(b"good"))
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def refusal(archive: Path, folder: Path) -> str:
    """The one line with which ``archive`` is refused; nothing is left of it, inside or outside."""
    before = everything(folder.parent.parent)
    with pytest.raises(ConfigError) as caught:
        unpack(archive, folder)
    assert "\n" not in str(caught.value) and everything(folder.parent.parent) == before
    return str(caught.value)


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work" / "files"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_unpacked_whole_by_its_content(tmp_path, target, kind):
    archive = pack(tmp_path / f"a.{kind}")
    unpack(archive.rename(tmp_path / "wrongly_named.jpg"), target)
    assert {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()} == FILES
    assert os.listdir(target.parent) == ["files"]


def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path, target):
    target.mkdir()
    unpack(tmp_path / "missing.tar", target)
    assert os.listdir(target) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../escaped.txt"), "must lie inside of it"),
        (member("a/../../escaped.txt"), "must lie inside of it"),
        (member("/tmp/escaped-by-tar.txt"), "must lie inside of it"),
        (member("C:\\escaped.txt"), "must lie inside of it"),
        (member("..\\escaped.txt"), "must lie inside of it"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "link is a link or device"),
        (member("link", tarfile.SYMTYPE, "good.txt"), "link is a link or device"),
        (member("link", tarfile.LNKTYPE, "good.txt"), "link is a link or device"),
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), "null is a link or device"),
        (member("pipe", tarfile.FIFOTYPE), "pipe is a link or device"),
        (member("x" * 300 + ".txt"), "cannot be unpacked"),
        (member("good.txt/inside"), "cannot be unpacked"),
    ],
)
def test_a_tar_that_would_leave_its_folder_is_refused(tmp_path, target, bad, message):
    assert message in refusal(tar_with(tmp_path / "a.tar", bad), target)
    assert not Path("/tmp/escaped-by-tar.txt").exists()


def test_a_link_cannot_be_written_through(tmp_path, target):
    """The classic: a link to a folder outside, then a file below that link."""
    bad = (member("way", tarfile.SYMTYPE, str(tmp_path)), member("way/escaped.txt", size=3))
    assert "way is a link or device" in refusal(tar_with(tmp_path / "a.tar", *bad), target)


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped-by-zip.txt", "a/../../b", "C:\\b", "..\\b"])
def test_a_zip_that_would_leave_its_folder_is_refused(tmp_path, target, name):
    assert "must lie inside of it" in refusal(pack(tmp_path / "a.zip", {"good": b"", name: b"x"}), target)


def test_a_zip_with_a_link_or_a_password_is_refused(tmp_path, target):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "link is a link or device" in refusal(tmp_path / "a.zip", target)
    content = bytearray(pack(tmp_path / "b.zip", {"secret": b"x"}).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag of encryption in the directory
    (tmp_path / "b.zip").write_bytes(content)
    assert "without a password, but secret is encrypted" in refusal(tmp_path / "b.zip", target)


def test_modes_that_give_rights_away_are_not_kept(tmp_path, target):
    unpack(tar_with(tmp_path / "a.tar", member("tool", mode=0o6777)), target)
    assert (target / "tool").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH) == 0


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b broken", gzip.compress(b"no tar"), bytes(4096)])
def test_what_is_no_archive_or_an_empty_one_is_one_line(tmp_path, target, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    refusal(tmp_path / "a.tar.gz", target)


def test_an_archive_that_needs_more_room_than_there_is_is_refused(tmp_path, target):
    huge = member("huge.bin", size=0)
    huge.size = 1 << 60
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(huge.tobuf(tarfile.GNU_FORMAT))
    assert "GB must be free" in refusal(tmp_path / "a.tar", target)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.995])
def test_a_truncated_archive_is_refused_or_whole(tmp_path, target, kind, share):
    archive = pack(tmp_path / f"a.{kind}")
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    if (kind, share) != ("tar.xz", 0.995):  # there the tar itself is whole, and xz's footer is cut
        assert "damaged or no archive" in refusal(archive, target)
        return
    unpack(archive, target)
    assert {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()} == FILES


NAMES = st.one_of(
    st.sampled_from(
        ["a", "a/b", "../a", "/tmp/x", "a/../../b", ".", "..", "a/", "a//b", "nul\0l", "ü", "x" * 300, " ", "\n"]
    ),
    st.text(max_size=12),
)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"Z"])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(st.tuples(NAMES, TYPES, NAMES, st.integers(0, 600)), max_size=5),
    damage=st.none() | st.integers(0, 10**6),
    kind=st.sampled_from(["tar", "tar.gz", "zip"]),
)
def test_any_archive_ends_as_a_folder_or_as_one_line(tmp_path_factory, members, damage, kind):
    top = tmp_path_factory.mktemp("any")
    (top / "work").mkdir()
    archive, target = top / f"a.{kind}", top / "work/files"
    try:
        if kind == "zip":
            pack(archive, {name: b"z" * size for name, _, _, size in members})
        else:
            with tarfile.open(archive, "w:" + kind[4:]) as opened:
                for name, type_, link, size in members:
                    info = member(name, type_, link, size=size if type_ == tarfile.REGTYPE else 0)
                    opened.addfile(info, io.BytesIO(b"t" * size))
    except (ValueError, IndexError):
        return  # not even a writer takes it
    content = bytearray(archive.read_bytes())
    if damage is not None and content:
        content[damage % len(content)] ^= 1 + damage % 255
        archive.write_bytes(content)
    try:
        unpack(archive, target)
    except ConfigError as error:
        assert "\n" not in str(error) and not target.exists()
    else:
        assert all(p.is_file() or p.is_dir() for p in target.rglob("*")) and not any(
            p.is_symlink() for p in target.rglob("*")
        )
    assert set(os.listdir(top)) == {archive.name, "work"} and set(os.listdir(top / "work")) <= {"files"}
    assert not Path("/tmp/x").exists()


def test_a_source_is_a_folder_or_unpacked_once_and_anew_when_it_changes(tmp_path):
    assert opened_source(tmp_path, tmp_path / "work") == tmp_path and not (tmp_path / "work").exists()
    archive = pack(tmp_path / "a.zip")
    first = opened_source(archive, tmp_path / "work")
    assert opened_source(archive, tmp_path / "work") == first and (first / "set/index.csv").is_file()
    pack(archive, {"other": b"1"})
    assert os.listdir(opened_source(archive, tmp_path / "work")) == ["other"]
    with pytest.raises(ConfigError, match=r"--source must be a folder or an archive, but .*gone does not exist"):
        opened_source(tmp_path / "gone", tmp_path / "work")
