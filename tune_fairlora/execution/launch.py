"""A search from its options to its end, in this process, which should do nothing else (``search_process.py``)."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tune_fairlora import cli
from tune_fairlora.plan.options import OPTIONS, SearchOptions

if TYPE_CHECKING:  # these take long to import, for which a wrong option must not wait
    from tune_fairlora.plan.plan import Begin, Plan, Progress

INTERRUPTED_MESSAGE = "interrupted before the search began; nothing was kept"
INTERRUPTED_RESUME_MESSAGE = "interrupted before the search went on; it is as it was"


def _nothing(folder: Path) -> None:
    pass


def run_search(options: SearchOptions, planned: Callable[[Path], None] = _nothing) -> int:
    """Carry out a new search. Returns the exit status: 0 done, 1 failed or nothing complete, 130 or 143 interrupted.

    ``planned`` is called with the search's folder once nothing stands in its way. Raises ConfigError, which names the
    field, before anything is written.
    """
    from tune_fairlora.plan import plan

    return _carry_out(partial(plan.make_plan, options), planned, INTERRUPTED_MESSAGE)


def resume_search(name: str, given: Mapping[str, object], planned: Callable[[Path], None] = _nothing) -> int:
    """Go on with the search ``name``, a folder or in the ``storage`` that is given, with the options ``given`` anew.

    As ``run_search``; where ConfigError is raised the search is as it was.
    """
    from tune_fairlora.plan import resume

    return _carry_out(partial(resume.make_plan, name, given), planned, INTERRUPTED_RESUME_MESSAGE)


def _carry_out(
    make_plan: "Callable[[Progress, Begin], Plan]", planned: Callable[[Path], None], interrupted: str
) -> int:
    from tune_fairlora.execution import ray_cluster, runner, signals, terminal

    with cli.errors_name_fields(OPTIONS), signals.Signals() as caught, ray_cluster.RayCluster() as ray:

        def begin(options: SearchOptions, trials: int, models: bool) -> None:
            ray.start(options, trials, models)
            caught.install()  # Ray has put a handler of its own in place

        try:
            with terminal.DecodingBar() as bar:
                plan = make_plan(bar, begin)
            planned(plan.folder)
            return runner.run(plan, ray, caught)
        except KeyboardInterrupt:  # later ones are answered by `runner.run`
            print(interrupted, file=sys.stderr)
            return caught.exit_status
