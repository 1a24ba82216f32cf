"""An archive is unpacked whole or leaves nothing, and writes nowhere but into its folder."""

import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.processes import patience, refusal, started, until
from trainables.config import ConfigError
from trainables.prepare.unpack import opened_source, unpack

FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
PROGRAM = "import sys, pathlib\nfrom trainables.prepare.unpack import unpack\n"


FILES = {"set/a.jpg": b"a" * 5000, "set/deep/er/b.jpg": b"", "set/ü.jpg": b"c" * 10, "metadata.csv": b"file_path\n"}


def tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w", **options) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for member in members:
            info, data = (member, b"x" * member.size) if isinstance(member, tarfile.TarInfo) else file(*member)
            archive.addfile(info, io.BytesIO(data))
    return path


def file(name: str, data: bytes, **attributes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def special(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", *(getattr(zipfile, f"ZIP_{m}") for m in
                                  ("STORED", "DEFLATED", "BZIP2", "LZMA"))])  # fmt: skip
@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a"])
def test_the_content_says_what_an_archive_is_not_its_name(tmp_path, kind, name):
    make = {"mode": kind} if isinstance(kind, str) else {"method": kind}
    archive = (tar if isinstance(kind, str) else zipped)(tmp_path / name, *FILES.items(), **make)
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES and sorted(os.listdir(tmp_path)) == sorted([name, "out"])


@pytest.mark.parametrize("make", ["tar", "zip", "unzip"])
def test_archives_of_the_usual_programs(tmp_path, make):
    folder = tmp_path / "from"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir()
    if make == "tar":
        subprocess.run(["tar", "-czf", tmp_path / "a", "-C", folder, "."], check=True)
    else:
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            for entry in sorted(folder.rglob("*")):
                archive.write(entry, entry.relative_to(folder))
    unpack(tmp_path / "a", tmp_path / "out")
    assert tree(tmp_path / "out") == FILES and (tmp_path / "out" / "empty").is_dir()


def test_modes_and_owners_are_not_kept(tmp_path):
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    for i, mode in enumerate((0o7777, 0o000, 0o4755)):
        info = zipfile.ZipInfo("a")
        info.external_attr = (stat.S_IFREG | mode) << 16
        unpack(zipped(tmp_path / f"z{i}", (info, b"x")), tmp_path / f"zip{i}")
        unpack(tar(tmp_path / f"t{i}", file("a", b"x", mode=mode, uid=7, mtime=1)[0]), tmp_path / f"tar{i}")
        for made in (tmp_path / f"zip{i}" / "a", tmp_path / f"tar{i}" / "a"):
            assert made.stat().st_mode == usual and made.stat().st_uid == os.getuid()


def nothing_left(tmp_path: Path, archive: Path, words: str = "") -> None:
    before = sorted(os.listdir(tmp_path))
    message = refusal(unpack, archive, tmp_path / "out")
    assert words in message and str(archive) in message
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "member",
    [
        ("../a", b""), ("x/../../a", b""), ("x/../a", b""), ("/tmp/a", b""), ("..", b""), ("//a", b""),
        special("a", tarfile.SYMTYPE, "/etc/passwd"), special("a", tarfile.SYMTYPE, "metadata.csv"),
        special("a", tarfile.LNKTYPE, "../a"), special("a", tarfile.LNKTYPE, "metadata.csv"),
        special("a", tarfile.CHRTYPE), special("a", tarfile.BLKTYPE), special("a", tarfile.FIFOTYPE),
        special("a", b"Z"), special("a", tarfile.GNUTYPE_SPARSE), ("x" * 300, b""), ("d/" * 101 + "a", b""),
        ("d/" * 1500 + "a", b""), ("metadata.csv/a", b""), special("../d", tarfile.DIRTYPE),
    ],
)  # fmt: skip
def test_a_member_that_is_no_plain_file_inside_is_named(tmp_path, member):
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    archive = tar(tmp_path / "a.tar.gz", *FILES.items(), member, mode="w:gz", format=tarfile.PAX_FORMAT)
    nothing_left(tmp_path, archive, repr(name[:150]).rstrip("'"))


def test_a_name_with_a_nul_is_refused(tmp_path):
    info, _ = file("a", b"", pax_headers={"path": "a\0b"})
    nothing_left(tmp_path, tar(tmp_path / "a.tar", info, format=tarfile.PAX_FORMAT), r"'a\x00b'")
    content = zipped(tmp_path / "b.zip", ("aXb", b"")).read_bytes()
    (tmp_path / "b.zip").write_bytes(content.replace(b"aXb", b"a\0b"))
    nothing_left(tmp_path, tmp_path / "b.zip", r"'a\x00b'")


def linked(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../a", "x/../../a", "x/../a", "/tmp/a", "..", "//a", "C:/a", "c:a", "..\\a", "x\\a", "x" * 300, "d/" * 101 + "a",
     "metadata.csv/a", "../d/", *(linked("a", mode) for mode in (stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR))],
)  # fmt: skip
def test_a_zip_has_the_same_rules(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", *FILES.items(), (name, b"metadata.csv"))
    shown = getattr(name, "filename", name)[:150]
    nothing_left(tmp_path, archive, repr(shown).rstrip("'"))


def test_an_encrypted_member_is_named(tmp_path):
    archive = zipped(tmp_path / "a.zip", ("photo.jpg", b"x"))
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    nothing_left(tmp_path, archive, "'photo.jpg' is encrypted")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "whole tar or zip"), (b"<html>terms</html>" * 99, "whole tar or zip"), (bytes(10_240), "but is empty"),
     (gzip.compress(b"no tar", mtime=0), "whole tar or zip"), (b"PK\5\6" + bytes(18), "but is empty"),
     (b"PK", "whole tar or zip"), (b"PK\3\4" + bytes(99), "whole tar or zip"),
     (b"Rar!\x1a\7\0" + bytes(99), "whole tar or zip")],
)  # fmt: skip
def test_what_is_no_archive_is_one_line(tmp_path, content, words):
    (tmp_path / "a.tar.gz").write_bytes(content)
    nothing_left(tmp_path, tmp_path / "a.tar.gz", words)


def test_folders_alone_are_empty(tmp_path):
    nothing_left(tmp_path, tar(tmp_path / "a", special("d", tarfile.DIRTYPE)), "must hold files, but is empty")
    nothing_left(tmp_path, zipped(tmp_path / "b", ("d/", b"")), "must hold files, but is empty")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner", *FILES.items()).read_bytes()
    unpack(tar(tmp_path / "a", ("inner.zip", inner)), tmp_path / "out")
    assert tree(tmp_path / "out") == {"inner.zip": inner}


def test_a_later_member_replaces_an_earlier_one(tmp_path):
    unpack(tar(tmp_path / "a", ("x", b"longer"), ("x", b"new"), ("X", b"other")), tmp_path / "out")
    assert tree(tmp_path / "out") == {"x": b"new", "X": b"other"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_that_are_not_utf8_are_kept(tmp_path, format):
    name = os.fsdecode(b"caf\xe9.jpg")
    unpack(tar(tmp_path / "a", (name, b"x"), format=format), tmp_path / "out")
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9.jpg"]


def test_more_than_the_disk_holds_is_refused_before_anything_is_written(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info, _ = file("huge.jpg", b"")
        info.size = 1 << 50
        archive.addfile(info)  # the header alone
    nothing_left(tmp_path, tmp_path / "a.tar", "GB must be free in")
    archive = zipped(tmp_path / "b.zip", ("huge.jpg", b""))
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = (0xFFFFFFFE).to_bytes(4, "little")
    entry = content[content.index(b"PK\1\2") : content.index(b"PK\5\6")]
    start, count = content.index(b"PK\1\2"), 60_000  # as in a bomb, all members are the same bytes: 4 GB each
    end = bytearray(content[content.index(b"PK\5\6") :])
    end[8:12], end[12:16] = count.to_bytes(2, "little") * 2, (len(entry) * count).to_bytes(4, "little")
    archive.write_bytes(content[:start] + entry * count + end)
    nothing_left(tmp_path, archive, "GB must be free in")


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_001, 5_000_000])
def test_a_zip_whose_header_lies_about_a_size_is_refused(tmp_path, size):
    archive = zipped(tmp_path / "a.zip", ("a", bytes(100_000)))
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = size.to_bytes(4, "little")
    archive.write_bytes(content)
    nothing_left(tmp_path, archive)


def header(info: tarfile.TarInfo, size: bytes) -> bytes:
    """The header of ``info`` with its 12 bytes for the size replaced, and the sum made right."""
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[148:156] = size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"5", b"S"])
@pytest.mark.parametrize("size", [b"\xff" * 10 + b"\xfe\x00", b"\x80" + b"\0" * 5 + b"\x7f" * 6, b"-0000000512\0"])
def test_impossible_sizes_in_a_tar_neither_hang_nor_fill_the_memory(tmp_path, kind, size):
    good = tar(tmp_path / "good", *FILES.items()).read_bytes()
    (tmp_path / "a").write_bytes(header(special("a", kind), size) + good)
    nothing_left(tmp_path, tmp_path / "a")


def test_headers_in_headers_are_refused(tmp_path):
    longname = header(special("././@LongLink", b"L"), b"00000000002\0") + b"a\0".ljust(512, b"\0")
    (tmp_path / "a").write_bytes(longname * 3000 + tar(tmp_path / "good", ("x", b"")).read_bytes())
    nothing_left(tmp_path, tmp_path / "a", "whole tar or zip")


def test_a_negative_size_in_a_pax_header_is_refused(tmp_path):
    info, data = file("a", b"abc", pax_headers={"size": "-1024"})
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as opened:
        opened.addfile(info, io.BytesIO(data))
    nothing_left(tmp_path, archive)


SMALL = {"d/a": b"abc" * 400, "d/b": b"", "c": random.Random(1).randbytes(700)}
MADE = {
    "tar": lambda path: tar(path, *SMALL.items()),
    "gz": lambda path: tar(path, *SMALL.items(), mode="w:gz"),
    "bz2": lambda path: tar(path, *SMALL.items(), mode="w:bz2"),
    "xz": lambda path: tar(path, *SMALL.items(), mode="w:xz"),
    "zip": lambda path: zipped(path, *SMALL.items()),
    "stored": lambda path: zipped(path, *SMALL.items(), method=zipfile.ZIP_STORED),
}


def whole_or_nothing(folder: Path, archive: Path) -> dict | None:
    """What was unpacked, None if it was refused; whatever the archive holds, nothing else appears."""
    before = sorted(os.listdir(folder))
    try:
        unpack(archive, folder / "out")
    except ConfigError as error:
        assert str(error).isprintable()
        assert sorted(os.listdir(folder)) == before
        return None
    assert sorted(os.listdir(folder)) == sorted([*before, "out"])
    found = tree(folder / "out")
    assert all(not p.is_symlink() and (p.is_file() or p.is_dir()) for p in (folder / "out").rglob("*"))
    shutil.rmtree(folder / "out")
    return found


@pytest.mark.parametrize("kind", MADE)
def test_a_truncated_archive_is_never_taken_for_whole(tmp_path, kind):
    content = MADE[kind](tmp_path / "a").read_bytes()
    for end in {*range(0, len(content), max(1, len(content) // 60)), *range(512, len(content), 512), len(content) - 1}:
        (tmp_path / "a").write_bytes(content[:end])
        found = whole_or_nothing(tmp_path, tmp_path / "a")
        assert found in (None, SMALL)
        if kind != "tar":  # whose padding may be cut
            assert found is None, end


@pytest.mark.parametrize("kind", MADE)
@FUZZ
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), more=st.binary(max_size=9))
def test_a_damaged_byte_is_never_unpacked_from_what_has_a_checksum(tmp_path_factory, kind, at, flip, more):
    folder = tmp_path_factory.mktemp("flip")
    content = bytearray(MADE[kind](folder / "a").read_bytes())
    content[int(at * len(content))] ^= flip
    (folder / "a").write_bytes(content + more)
    found = whole_or_nothing(folder, folder / "a")
    if found is not None and kind in ("gz", "bz2", "xz"):
        assert found == SMALL
    if found is not None and kind in ("zip", "stored"):
        assert set(found.values()) <= {*SMALL.values(), b""}


HEADS = st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0"])


@FUZZ
@given(content=st.binary(max_size=2000), head=HEADS)
def test_random_bytes_are_refused(tmp_path_factory, content, head):
    folder = tmp_path_factory.mktemp("random")
    (folder / "a").write_bytes(head + content)
    whole_or_nothing(folder, folder / "a")


PARTS = st.sampled_from(["a", "b", "..", ".", "", "x" * 256, "x" * 255, "ü", "caf\udce9", "a b", "\n", "C:", "\\", "~"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from([b"0"] * 6 + [tarfile.DIRTYPE] * 2 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
MEMBERS = st.lists(st.tuples(NAMES, KINDS, NAMES, st.integers(0, 3)), min_size=1, max_size=6)


def safe(name: str) -> bool:
    parts = name.split("/")
    return bool(name.strip("/")) and not name.startswith("/") and ".." not in parts


@FUZZ
@given(members=MEMBERS, format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_tar_is_unpacked_whole_or_leaves_nothing(tmp_path_factory, members, format):
    folder = tmp_path_factory.mktemp("tars")
    infos = [special(name, kind, target, size * (kind == tarfile.REGTYPE)) for name, kind, target, size in members]
    tar(folder / "a", *infos, format=format)
    found = whole_or_nothing(folder, folder / "a")
    if found is not None:
        assert all(safe(name) and kind in (tarfile.REGTYPE, tarfile.DIRTYPE) for name, kind, *_ in members)
        wanted = {os.path.normpath(name): b"x" * size for name, kind, _, size in members if kind == tarfile.REGTYPE}
        assert found == wanted


ZIP_NAMES = NAMES.map(lambda name: name.replace("\udce9", "é"))
MODES = st.sampled_from([0, 0, 0, stat.S_IFREG | 0o7777, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFCHR])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@FUZZ
@given(members=st.lists(st.tuples(ZIP_NAMES, MODES, st.binary(max_size=5)), min_size=1, max_size=6))
def test_any_zip_is_unpacked_whole_or_leaves_nothing(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("zips")
    zipped(folder / "a", *((linked(name, mode), data) for name, mode, data in members))
    found = whole_or_nothing(folder, folder / "a")
    if found is not None:
        assert all(safe(name) and stat.S_IFMT(mode) not in (stat.S_IFLNK, stat.S_IFCHR) for name, mode, _ in members)
        assert found == {os.path.normpath(name): data for name, _, data in members if not name.endswith("/")}


UNPACK = PROGRAM + "unpack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
WAIT = """
import time
from trainables.prepare import unpack as module
write = module._write
def stopping(archive, entry, folder):
    time.sleep(600 if entry.name.endswith("/2500") else 0)  # in the midst of it, to be killed
    write(archive, entry, folder)
module._write = stopping
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_call(tmp_path):
    many = {f"d{i % 7}/{i}": b"x" * 100 for i in range(5000)}
    archive = tar(tmp_path / "a", *many.items())
    process = started(WAIT + UNPACK, archive, tmp_path / "out")
    until(lambda: (tmp_path / ".out.unpacking" / "d6" / "2001").exists())
    process.kill()
    process.communicate()
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.unpacking").exists()
    unpack(archive, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*/*"))) == 5000 and sorted(os.listdir(tmp_path)) == ["a", "out"]


def test_two_processes_may_unpack_at_once(tmp_path):
    archive = tar(tmp_path / "a", *((f"{i}", b"x") for i in range(2000)), mode="w:gz")
    both = [started(UNPACK, archive, tmp_path / "out") for _ in range(2)]
    assert [process.wait(patience(30)) for process in both] == [0, 0]
    assert len(os.listdir(tmp_path / "out")) == 2000 and sorted(os.listdir(tmp_path)) == ["a", "out"]


def test_an_existing_folder_is_taken_for_whole(tmp_path):
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "not even there", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("archive", ["missing", "folder", "x" * 300])
def test_an_archive_that_cannot_be_read_is_one_line(tmp_path, archive):
    (tmp_path / "folder").mkdir()
    nothing_left(tmp_path, tmp_path / archive)


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "out").touch()
    nothing_left(tmp_path, tar(tmp_path / "a", *FILES.items()), "Not a directory")


def test_a_source_is_a_folder_or_an_archive(tmp_path):
    work = tmp_path / "work"
    assert opened_source(tmp_path, work) == tmp_path and not work.exists()
    message = refusal(opened_source, tmp_path / "none", work)
    assert message == f"`source` must be a folder or an archive, but {tmp_path / 'none'} does not exist"
    assert "is neither" in refusal(opened_source, Path("/dev/zero"), work)
    assert "does not exist" in refusal(opened_source, tmp_path / ("x" * 300), work)
    (tmp_path / "page.zip").write_text("<html>")
    assert "whole tar or zip" in refusal(opened_source, tmp_path / "page.zip", work)
    assert not work.exists()
    assert "" in refusal(opened_source, tmp_path / "page.zip", tmp_path / "page.zip" / "work")


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tmp_path):
    archive, work = tar(tmp_path / "a.tar", *FILES.items()), tmp_path / "deep" / "work"
    folder = opened_source(archive, work)
    assert tree(folder) == FILES and folder.parent == work
    (folder / "mark").touch()
    assert opened_source(archive, work) == folder and (folder / "mark").exists()
    tar(archive, *SMALL.items())
    assert tree(opened_source(archive, work)) == SMALL and len(os.listdir(work)) == 2
