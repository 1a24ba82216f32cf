"""The main job: a multi-objective search over LoRA, FairLoRA, FFT and FairFFT.

python -m tune_fairlora.search --space digits
python -m tune_fairlora.search --space folder_vit_tiny --data photos/ --weights vit_tiny.safetensors
python -m tune_fairlora.search --config runs/NAME/config.yaml
python -m tune_fairlora.search --resume NAME
python -m tune_fairlora.search --list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tune_fairlora import startup

if TYPE_CHECKING:  # imported where used: a user's analysis.py must not hide ours, and --help must not wait for torch
    from pathlib import Path

    from tune_fairlora import cli
    from tune_fairlora.plan.options import SearchOptions
    from tune_fairlora.plan.plan import Begin, Plan
    from tune_fairlora.run.terminal import DecodingBar

    PlanMaker = Callable[[DecodingBar, Begin], Plan]

INTERRUPTED = "interrupted before the search began; nothing was kept"
INTERRUPTED_AGAIN = "interrupted before the search went on; it is as it was"


class Outcome(NamedTuple):
    """What became of a search. ``status``: 0 done, 1 failed or nothing complete, 130 or 143 interrupted."""

    status: int
    folder: Path | None  # of the search; None where it was interrupted before it had one


def run_search(options: SearchOptions) -> Outcome:
    """Carry out a new search. Raises ConfigError, which names the field, before anything is written."""
    from tune_fairlora.plan import plan

    return _carry_out(partial(plan.make_plan, options), INTERRUPTED)


def resume_search(name: str, given: Mapping[str, object]) -> Outcome:
    """Go on with the search ``name``, a folder or in the ``storage`` that is given, with the options ``given`` anew.

    Raises ConfigError where that is not possible; the search is then as it was.
    """
    from tune_fairlora.plan import resume

    return _carry_out(partial(resume.make_plan, name, given), INTERRUPTED_AGAIN)


def _carry_out(make_plan: PlanMaker, interrupted: str) -> Outcome:
    from tune_fairlora import cli
    from tune_fairlora.plan.options import OPTIONS
    from tune_fairlora.run import ray_cluster, runner, signals, terminal

    with cli.errors_name_fields(OPTIONS), signals.Signals() as caught, ray_cluster.Cluster() as ray:

        def begin(options: SearchOptions, trials: int, models: bool) -> None:
            ray.start(options, trials, models)
            caught.install()  # Ray has put a handler of its own in place

        try:
            with terminal.DecodingBar() as bar:
                plan = make_plan(bar, begin)
            return Outcome(runner.run(plan, ray, caught), plan.folder)
        except KeyboardInterrupt:  # later ones are answered by `runner.run`
            print(interrupted, file=sys.stderr)
            return Outcome(caught.exit_status, None)


def parser() -> cli.Parser:
    """The command line: a flag for each of ``SearchOptions``, and what the command can do besides a search."""
    from trainables.config import FIELDS
    from tune_fairlora import cli
    from tune_fairlora.plan import options

    hyperparameters = [f"  {name:14} {spec.metadata['about']} ({spec.default})" for name, spec in FIELDS.items()]
    p = cli.Parser(
        prog="python -m tune_fairlora.search",
        description="Search fine-tuning methods and their hyperparameters for accuracy (up) and ΔF1 (down).",
        epilog="hyperparameters for --set (default; a space may differ, see --describe):\n"
        + "\n".join(hyperparameters),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups = options.add_flags(p)
    groups["what to search"].add_argument(
        "--config", metavar="FILE.yaml", help=f"options by name, as in a search's {options.CONFIG_FILE}; flags go first"
    )
    faults = groups["when something breaks"]
    faults.add_argument("--resume", metavar="NAME|DIR", help="go on with a search that was broken off")
    faults.add_argument("--resync", metavar="NAME|DIR", help="send MLflow what it has missed of a search, and stop")
    look = p.add_argument_group("look first")
    look.add_argument("--list", action="store_true", help="the search spaces, one line each")
    look.add_argument("--describe", action="store_true", help="the resolved space, and what each rank trains")
    look.add_argument(
        "--dry-run", action="store_true", help="prepare and check everything, then stop before Ray starts"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 failed, 2 the user's mistake, 130 or 143 interrupted."""
    from tune_fairlora import cli
    from tune_fairlora.plan.options import OPTIONS

    return cli.run(lambda: _command(argv), INTERRUPTED, OPTIONS)


def _command(argv: list[str] | None) -> int:
    from tune_fairlora.plan.options import DEFAULTS, OPTIONS, SearchOptions, checked, read_config

    args = parser().parse_args(argv)
    if args.list:
        return _list()
    given = read_config(args.config) if args.config else {}
    given |= checked({name: value for name, value in vars(args).items() if name in OPTIONS})
    if args.resync:
        from tune_fairlora.record import search_folder
        from tune_fairlora.tracking import resync

        folder = search_folder.find(args.resync, given.get("storage", DEFAULTS["storage"]))
        return resync.resync(folder, given.get("tracking_uri"))
    if args.describe:
        from tune_fairlora.plan import describe

        return describe.describe(SearchOptions(**given))
    if args.dry_run:
        return _dry_run(args.resume, given)
    return (resume_search(args.resume, given) if args.resume else run_search(SearchOptions(**given))).status


def _dry_run(resumed: str | None, given: Mapping[str, Any]) -> int:
    from tune_fairlora.plan import describe, plan, resume
    from tune_fairlora.plan.options import SearchOptions
    from tune_fairlora.run.terminal import DecodingBar

    with DecodingBar() as bar:
        made = resume.make_plan(resumed, given, bar) if resumed else plan.make_plan(SearchOptions(**given), bar)
    return describe.dry_run(made)


def _list() -> int:
    from search_spaces import SPACES

    for name, space in SPACES.items():
        print(f"{name:21} {space.about}")
    return 0


if __name__ == "__main__":
    startup.prepare_process()
    startup.leave(main())
