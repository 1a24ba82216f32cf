"""Files of the core: the cache folder, atomic replacement, hashes, locks, names that are safe to print or to join."""

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.config import ConfigError


def cache_folder() -> Path:
    """``$TUNE_FAIRLORA_CACHE``, else ``$XDG_CACHE_HOME/tune-fairlora``, else ``~/.cache/tune-fairlora``; made here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TUNE_FAIRLORA_CACHE") or Path(base) / "tune-fairlora")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name beside ``path``, then rename: a reader sees the old file or the whole new one,
    and of two processes that write at once both succeed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_safetensors(state: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the tensors of ``state`` atomically, readable for whom the umask lets read, as every other file: the
    library makes its files for their owner alone."""
    import safetensors.torch

    def write(temporary: Path) -> None:
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, temporary, metadata)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)

    replace_atomically(path, write)


def file_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_torn(path: Path) -> None:
    """Remove what killed processes left of their writing to ``path``. The caller must hold a lock on it."""
    for torn in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        torn.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock beside ``path`` while the body runs; another process waits. It ends with its process, however."""
    lock = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                break
        os.close(descriptor)  # the one before us has removed this file, and a third may hold its successor
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def require_space(what: str, folder: Path, needed: int) -> None:
    """Raise ConfigError unless ``needed`` bytes are free in ``folder``; ``what`` completes "… must be free to"."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"at least {needed / 1e9:.1f} GB must be free in {folder} to {what}, but {free / 1e9:.1f} GB are"
        raise ConfigError(f"{plain(sizes)}: make room, or choose another place")


def plain(text: object) -> str:
    """``text`` on one line that any terminal and any UTF-8 file takes: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def inside(source: Path, name: str, column: str = "file_path") -> Path:
    """``source / name``; whatever a table says, no file outside of ``source`` is read."""
    if Path(name).is_absolute() or ".." in Path(name).parts or not name or "\0" in name:
        raise ConfigError(f"{column} must stay inside the folder {source}, but one is {name!r}")
    return source / name
