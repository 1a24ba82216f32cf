"""Where searches lie."""

from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.record.event_log import LOG


def find(name: str, storage: str) -> Path:
    """The folder of the search ``name``: a path, or a name in ``storage``. Raises ConfigError where there is none."""
    for folder in (Path(storage) / name, Path(name)):
        if (folder / LOG).is_file():
            return folder.resolve()
    if (Path(storage) / name).is_dir() or Path(name).is_dir():
        raise ConfigError(f"{name} must be the folder of a search, but has no {LOG}")
    known = sorted(path.parent.name for path in Path(storage).glob(f"*/{LOG}"))
    raise ConfigError(f"{name} must be a search in {storage} or its folder; there are: {', '.join(known) or 'none'}")
