"""A user's own space: the Python file that defines it, read with every mistake told in one line."""

import importlib.util
import sys
from pathlib import Path

from search_spaces.space import Space
from trainables.config import ConfigError


def from_file(path: Path) -> Space:
    """The Space called ``SPACE`` in a user's Python file. Raises ConfigError with the file's own error in one line.

    The file is the user's program and runs with the user's rights, as any script that is started by name.
    """
    if not path.is_file():
        raise ConfigError(f"--space {path} must be a file, but does not exist")
    spec = importlib.util.spec_from_file_location(f"user_space_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.append(str(path.resolve().parent))  # the file's neighbours, behind everything of ours
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ in the user's folder
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"--space {path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise ConfigError(f"--space {path} failed while it was read: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = before
        sys.path.pop()
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise ConfigError(f"--space {path} must define SPACE = Space(...), but SPACE is {type(space).__name__}")
    return space
