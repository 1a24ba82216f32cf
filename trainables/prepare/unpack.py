"""Opens an archive, tar or zip, so that nothing in it can write, link or lead outside of its folder."""

import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from trainables.config import ConfigError
from trainables.prepare.build import locked
from trainables.prepare.listing import plain

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error)
DAMAGED += (ValueError, OverflowError, RuntimeError, NotImplementedError, IndexError, KeyError)  # of their readers


def opened_source(source: Path, work: Path) -> Path:
    """``source`` itself if it is a folder; else the folder below ``work`` into which this archive is unpacked, once."""
    if source.is_dir():
        return source
    if not source.is_file():
        raise ConfigError(f"--source must be a folder or an archive, but {source} does not exist")
    status = source.stat()
    key = hashlib.sha256(f"{source.name} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
    work.mkdir(parents=True, exist_ok=True)
    folder = work / key.hexdigest()[:16]
    unpack(source, folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Make ``folder`` the content of ``archive`` unless it exists; it exists only when it is complete.

    Raises ConfigError for a damaged archive, and for one with a member that is no plain file or folder or that lies
    elsewhere (absolute, ``..``, links, devices): nothing is left of it then.
    """
    with locked(folder):
        if folder.exists():
            return
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir()
        try:
            if not _extract(archive, temporary):
                raise ConfigError(f"{plain(archive)} must hold files, but is empty")
            os.replace(temporary, folder)
        except ConfigError:
            raise
        except DAMAGED as error:
            raise ConfigError(f"{plain(archive)} is damaged or no archive ({_line(error)}): fetch it again") from error
        except OSError as error:  # a full disk, a name too long, a file where a folder should be
            raise ConfigError(f"{plain(archive)} cannot be unpacked beside {folder}: {_line(error)}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> int:
    """Unpack by what the file holds, not by its name; the number of files."""
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as opened:
            return sum(_extract_zipped(opened, info, folder) for info in opened.infolist())
    with tarfile.open(archive) as opened:
        return sum(_extract_tarred(opened, member, folder) for member in _members(opened))


def _members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, so that nothing is decompressed twice; a tar that ends in the midst of one is damaged."""
    opened.errorlevel = 2
    yield from opened


def _extract_tarred(opened: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> bool:
    if not member.isreg() and not member.isdir():
        raise ConfigError(f"an archive may hold files and folders alone, but {plain(member.name)} is a link or device")
    _require_inside(member.name)
    _require_room(member.size, folder)
    opened.extract(member, folder, filter="data")
    return member.isreg()


def _extract_zipped(opened: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> bool:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ConfigError(
            f"an archive may hold files and folders alone, but {plain(info.filename)} is a link or device"
        )
    if info.flag_bits & 1:
        raise ConfigError(f"an archive must be readable without a password, but {plain(info.filename)} is encrypted")
    _require_inside(info.filename)
    target = folder / info.filename
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return False
    _require_room(info.file_size, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)  # never more than the header announces
    return True


def _require_inside(name: str) -> None:
    """Absolute paths and ``..`` would lead out, on Windows also drives and backslashes: such names are an attack."""
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root or ".." in windows.parts or "\0" in name or not name:
        raise ConfigError(f"an archive's members must lie inside of it, but one is called {plain(name)!r}")


def _require_room(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ConfigError(
            f"{size / 1e9:.1f} GB must be free at {folder} for the next file, but {free / 1e9:.1f} GB are"
        )


def _line(error: Exception) -> str:
    return plain(" ".join(str(error).split()))[:200] or type(error).__name__
