"""What Ray starts on this machine and a search has no use for is left out of its start, which takes half the time so.

``ray.init`` starts three Python programs beside its own two, and waits for the first: the dashboard's server (also
without a dashboard: it would send usage statistics), the autoscaler's monitor (there is nothing to scale on one
machine) and the log monitor (it carries the workers' output to the driver; ``log_to_driver`` is off). No option leaves
them out, so Ray's own functions are replaced while it starts; one that another version of Ray lacks is left alone, and
a start without the replacement is only slower. A Ray that runs already (``--address``) is as its owner made it.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator

# Module, class ("" for a function of the module), function, and what it returns where Ray does without as well.
LEFT_OUT: list[tuple[str, str, str, object]] = [
    ("ray._private.node", "Node", "start_monitor", None),
    ("ray._private.node", "Node", "start_log_monitor", None),
    ("ray._private.services", "", "start_api_server", (None, None)),  # address and process, as where it did not start
]


@contextlib.contextmanager
def bare_ray() -> Iterator[None]:
    """Inside, ``ray.init`` starts no more than a search needs; not for several threads at once."""
    with contextlib.ExitStack() as end:
        for module, owner, name, result in LEFT_OUT:
            home = _home(module, owner)
            if hasattr(home, name):
                end.callback(setattr, home, name, getattr(home, name))
                setattr(home, name, _returning(result))
        yield


def _home(module: str, owner: str) -> object:
    """The module, or the class in it; None where this version of Ray has no such."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return getattr(found, owner, None) if owner else found


def _returning(result: object) -> Callable[..., object]:
    return lambda *args, **options: result
