"""SPACES: every search space by name. A user's own is a Python file that defines SPACE, given by path."""

from pathlib import Path

from search_spaces import digits, ding_paper, fairlora_paper, folder
from search_spaces.space import Space, from_file
from trainables.config import lookup

ALL = (
    *(digits.SPACE, folder.VIT_TINY, folder.CLIP),
    *(space for file in (fairlora_paper, ding_paper) for space in file.SPACES),
)
SPACES: dict[str, Space] = {space.name: space for space in ALL}


def resolve(name: str) -> Space:
    """The space called ``name``, or the one in the Python file ``name``. Raises ConfigError listing the known ones."""
    return from_file(Path(name)) if name.endswith(".py") else lookup(SPACES, name, "space")
