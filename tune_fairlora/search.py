"""The main job: a multi-objective search over LoRA, FairLoRA, FFT and FairFFT.

python -m tune_fairlora.search --space digits
python -m tune_fairlora.search --space folder_vit_tiny --data photos/ --weights vit_tiny.safetensors
python -m tune_fairlora.search --config runs/NAME/config.yaml
python -m tune_fairlora.search --resume NAME
python -m tune_fairlora.search --list
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("search")  # imports this file again, under its own name

import argparse

from trainables.config import FIELDS
from tune_fairlora import cli
from tune_fairlora.plan.search_options import DEFAULTS, OPTIONS, SearchOptions, add_flags, checked, read_config


def parser() -> cli.Parser:
    """The command line: a flag for each of ``SearchOptions``, and what the command can do besides a search."""
    hyperparameters = [f"  {name:14} {spec.metadata['about']} ({spec.default})" for name, spec in FIELDS.items()]
    p = cli.Parser(
        "search",
        "Search fine-tuning methods and their hyperparameters for accuracy (up) and ΔF1 (down).",
        "interrupted before the search began; nothing was kept",
        epilog="hyperparameters for --set (default; a space may differ, see --describe):\n"
        + "\n".join(hyperparameters),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = add_flags(p)
    faults = groups["when something breaks"]
    faults.add_argument("--resume", metavar="NAME|DIR", help="go on with a search that was broken off")
    faults.add_argument("--resync", metavar="NAME|DIR", help="send MLflow what it has missed of a search, and stop")
    look = p.add_argument_group("look first")
    look.add_argument("--list", action="store_true", help="the search spaces, one line each")
    look.add_argument("--describe", action="store_true", help="the resolved space, and what each rank trains")
    look.add_argument("--dry-run", action="store_true", help="prepare and check everything, and stop before Ray starts")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 1 failed, 2 the user's mistake, 130 or 143 interrupted."""
    if args.list:
        from search_spaces import SPACES

        print("\n".join(f"{name:21} {space.about}" for name, space in SPACES.items()))
        return 0
    given = read_config(args.config) if args.config else {}
    given |= checked({name: value for name, value in vars(args).items() if name in OPTIONS})
    if args.resync:
        from tune_fairlora.record import search_folder
        from tune_fairlora.tracking.tracker import resync

        folder = search_folder.find(args.resync, given.get("storage", DEFAULTS["storage"]))
        return resync(folder, given.get("tracking_uri"))
    if args.describe or not args.resume:
        SearchOptions(**given)  # a wrong option does not wait for the imports below
    if not (args.describe or args.dry_run):
        from tune_fairlora.execution import runner

        return runner.search(given, args.resume)
    from tune_fairlora.execution.terminal import Bars
    from tune_fairlora.plan import describe, plan, resume

    if args.describe:
        return describe.describe(SearchOptions(**given))
    with Bars() as bars:
        if args.resume:
            made = resume.make_plan(args.resume, given, bars.images)
        else:
            made = plan.make_plan(SearchOptions(**given), bars.images)
    return describe.dry_run(made)
