"""From an archive to a folder: an unpacking that is whole or nothing, and never outside."""

import contextlib
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from trainables.config import ConfigError
from trainables.files import locked, plain, require_space

CHUNK = 1 << 20  # bytes
BLOCK = 4096  # bytes on disk that even an empty file may take
DEEPEST = 100  # folders in folders; the standard library cannot remove those a thousand deep
LONGEST_HEADER = 1 << 20  # bytes; tarfile holds in memory what a header claims to be its own


class DamagedArchive(ConfigError):
    """The file itself is at fault, whatever room there is: to have it again, it must be fetched again."""


class _Entry(NamedTuple):
    """One member of an archive: a folder, or a file of ``size`` bytes."""

    name: str
    size: int
    folder: bool
    opened: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar (plain, gz, bz2 or xz) or zip, told apart by their content, so that ``folder`` is whole or absent.

    An existing ``folder`` is taken for whole; a second process waits for the first. A later member replaces an earlier
    one of its name; permissions and times are not kept. Raises ConfigError for a member that is absolute, climbs with
    ``..``, is a link, a device or encrypted, for a damaged or empty archive, and for a disk with too little room.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    with _in_one_line(archive, folder), locked(folder):
        if folder.is_dir():
            return
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process: the lock is ours
            _survey(archive, folder.parent)
            temporary.mkdir()
            for entry in _entries(archive):
                _write(archive, entry, temporary)
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _in_one_line(archive: Path, folder: Path) -> Iterator[None]:
    """tarfile and zipfile answer damage with a dozen kinds of exceptions; those with an errno are the disk's."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        why = f"be a whole tar or zip archive, but is damaged or no such thing ({type(error).__name__}): get it again"
        if isinstance(error, OSError) and error.errno:
            why = f"be readable and fit beside {folder}, but {error.strerror}: make room, or choose another place"
            raise ConfigError(plain(f"{archive} must {why}")) from error
        raise DamagedArchive(plain(f"{archive} must {why}")) from error


def _survey(archive: Path, place: Path) -> None:
    """Look at every member before anything is written; stops at the first that is refused or does not fit."""
    needed = files = 0
    for entry in _entries(archive):
        parts = entry.name.split("/")
        if not entry.name or parts[0] == "" or ".." in parts or "\0" in entry.name or len(parts) > DEEPEST:
            raise _refused(archive, entry.name, "leads out of it or nowhere")
        files += not entry.folder
        needed += -(-entry.size // BLOCK) * BLOCK + BLOCK
        require_space(f"unpack {archive}", place, needed)
    if not files:
        raise DamagedArchive(plain(f"{archive} must hold files, but is empty: get it again"))


def _write(archive: Path, entry: _Entry, folder: Path) -> None:
    target, left = folder / entry.name, entry.size
    try:
        (target if entry.folder else target.parent).mkdir(parents=True, exist_ok=True)
        if entry.folder:
            return
        source = entry.opened()
        assert source is not None  # tarfile's answer for what is no regular file
        with source, open(target, "wb") as file:
            while left >= 0 and (chunk := source.read(CHUNK)):
                left -= len(chunk)
                file.write(chunk)
    except OSError as error:
        raise _refused(archive, entry.name, f"cannot be unpacked ({error.strerror or 'damaged'})") from error
    if left:
        raise _refused(archive, entry.name, "is not as long as announced")


def _refused(archive: Path, name: str, why: str) -> DamagedArchive:
    shown = name if len(name) <= 200 else f"{name[:197]}…"
    return DamagedArchive(plain(f"{archive} must hold plain files inside of it, but {shown!r} {why}: get it again"))


def _entries(archive: Path) -> Iterator[_Entry]:
    with open(archive, "rb") as file:
        # Not zipfile.is_zipfile, which takes a tar that ends with a zip for that zip.
        zipped = file.read(4) in (b"PK\3\4", b"PK\5\6")
    return _zip_entries(archive) if zipped else _tar_entries(archive)


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
            if "\\" in name or name[1:2] == ":":
                raise _refused(archive, name, "is no portable name")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, name, "is a link or a device")
            if info.flag_bits & 1:
                raise _refused(archive, name, "is encrypted")
            yield _Entry(name, info.file_size, name.endswith("/"), partial(opened.open, info))


class _Member(tarfile.TarInfo):
    """tarfile takes a damaged header for the archive's end, and believes any size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the real end
            raise tarfile.ReadError(str(error)) from error
        if member.size < 0 or (member.size > LONGEST_HEADER and not member.isreg()):
            raise tarfile.ReadError("impossible size")
        return member


def _tar_entries(archive: Path) -> Iterator[_Entry]:
    with tarfile.open(archive, tarinfo=_Member) as opened:
        for member in iter(opened.next, None):
            opened.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all; typeshed lacks it
            if not (member.isreg() or member.isdir()) or member.issparse() or member.size < 0:
                raise _refused(archive, member.name, "is a link, a device or a file with holes")
            try:
                tarfile.data_filter(member, os.fspath(archive))  # below a file, where no link of ours misleads it
            except (tarfile.FilterError, ValueError) as error:  # ValueError: a NUL
                raise _refused(archive, member.name, "leads out of it") from error
            yield _Entry(member.name, member.size, member.isdir(), partial(opened.extractfile, member))
        while opened.fileobj.read(CHUNK):
            pass  # what follows holds the checksum of the compressed stream


def opened_source(source: Path, work: Path) -> Path:
    """The folder to read: ``source``, or what it unpacks to, in ``work`` under its name, size and time of change.

    Raises ConfigError if ``source`` is neither a folder nor an archive that ``unpack`` takes.
    """
    if os.path.isdir(source):
        return source
    if not os.path.isfile(source):
        state = "is neither" if os.path.exists(source) else "does not exist"
        raise ConfigError(plain(f"`source` must be a folder or an archive, but {source} {state}"))
    status = source.stat()
    key = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(source.name)).hexdigest()
    try:
        with _in_one_line(source, work):
            work.mkdir(parents=True, exist_ok=True)
        unpack(source, work / key[:16])
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()  # only where nothing came into it
    return work / key[:16]
