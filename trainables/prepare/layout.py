"""Where a distribution lies under the folder that somebody passes, and that none of its files lies elsewhere."""

import os
from collections.abc import Sequence
from pathlib import Path

from trainables.config import ConfigError
from trainables.files import plain

SHOWN = 100  # names that a note lists; the manifest is for reading


def find_root(source: Path, marker: str, levels: int = 2) -> Path:
    """The folder that holds ``marker`` (a file's or folder's name): ``source``, or one up to ``levels`` below it.

    The level nearest to ``source`` counts. Linked and hidden folders are not entered. Raises ConfigError if no folder
    has it, or several of one level.
    """
    if not os.path.isdir(source):
        raise ConfigError(f"the source must be a folder, but {plain(source)} is not")
    level = [source]
    for _ in range(levels + 1):
        roots = [folder for folder in level if os.path.exists(folder / marker)]
        if len(roots) > 1:
            names = plain(", ".join(str(folder) for folder in roots[:3]))
            raise ConfigError(f"{plain(source)} must hold one {marker}, but has {len(roots)}: pass one of {names}")
        if roots:
            return roots[0]
        level = [below for folder in level for below in _folders(folder)]
    raise ConfigError(
        f"{plain(source)} must hold {marker}, itself or at most {levels} folders down, but does not: "
        f"pass the folder that the authors' archive unpacks into"
    )


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
    except OSError:  # not ours to read
        return []


def refuse_escapes(root: Path, files: Sequence[Path]) -> None:
    """Raise ConfigError if a link leads one of ``files``, each named below ``root``, out of it. They need not exist."""
    real = os.path.realpath(root)
    inside: dict[str, bool] = {}  # the folders are few, the files many
    for file in files:
        folder = os.path.dirname(file)
        if folder not in inside:
            inside[folder] = _below(real, folder)
        if not inside[folder] or (os.path.islink(file) and not _below(real, file)):
            raise ConfigError(
                f"every image must lie inside {plain(root)}, but a link leads {plain(file.relative_to(root))} "
                f"out of it: copy the images there"
            )


def _below(real: str, path: str | Path) -> bool:
    return os.path.commonpath([real, os.path.realpath(path)]) == real


def shown(names: Sequence[str]) -> list[str]:
    """``names`` for a note: printable, and the first ``SHOWN`` of them."""
    more = [f"… and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [plain(name) for name in names[:SHOWN]] + more
