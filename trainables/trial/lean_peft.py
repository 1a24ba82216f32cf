"""Imports peft without the library that takes nine tenths of its time: for a trial's own process.

Not for a process of several threads: another could import what stands in for a moment, and keep it.

peft imports transformers, for the language models that it can adapt as well: 1.6 to 2.1 s of the 6 to 8 s that a
trial's process takes to load, twice on two cores. Here an adapted model is always timm's. So while peft is imported, an
empty class stands for whatever it wants of transformers; its ``isinstance`` checks against those are False, as before.
Afterwards transformers is as unknown to Python as it was, and who imports it gets the real one.

Where peft or transformers is imported already, or an empty class is not enough, all is imported as ever.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
import types

HEAVY = "transformers"


class StandIn(types.ModuleType):
    """A module that has every public name: an empty class, the same one each time."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {"__module__": self.__name__}))
        return vars(self)[name]


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``HEAVY`` and every module below it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if _is(name, HEAVY) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == HEAVY:
            vars(module)["__version__"] = importlib.metadata.version(HEAVY)


def _is(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if _is(name, package)]:
        del sys.modules[name]


def import_peft() -> bool:
    """Import peft; returns whether it was imported without ``HEAVY``. A second call changes nothing."""
    if not {"peft", HEAVY} & sys.modules.keys():
        finder = StandInFinder()
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module("peft")
            return True
        except Exception:  # of another version, to which an empty class is not enough
            _forget("peft")
        finally:
            sys.meta_path.remove(finder)
            _forget(HEAVY)
    importlib.import_module("peft")
    return False
