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
from collections.abc import Mapping
from typing import Any

from trainables.config import FIELDS
from tune_fairlora import cli
from tune_fairlora.execution.launch import INTERRUPTED_MESSAGE, resume_search, run_search
from tune_fairlora.plan.options import CONFIG_FILE, DEFAULTS, OPTIONS, SearchOptions, add_flags, checked, read_config


def parser() -> cli.Parser:
    """The command line: a flag for each of ``SearchOptions``, and what the command can do besides a search."""
    hyperparameters = [f"  {name:14} {spec.metadata['about']} ({spec.default})" for name, spec in FIELDS.items()]
    p = cli.Parser(
        "search",
        "Search fine-tuning methods and their hyperparameters for accuracy (up) and ΔF1 (down).",
        epilog="hyperparameters for --set (default; a space may differ, see --describe):\n"
        + "\n".join(hyperparameters),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = add_flags(p)
    groups["what to search"].add_argument(
        "--config", metavar="FILE.yaml", help=f"options by name, as in a search's {CONFIG_FILE}; flags override them"
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
    return cli.run(parser(), argv, _command, INTERRUPTED_MESSAGE)


def _command(args: argparse.Namespace) -> int:
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
    return resume_search(args.resume, given) if args.resume else run_search(SearchOptions(**given))


def _dry_run(resumed: str | None, given: Mapping[str, Any]) -> int:
    from tune_fairlora.execution.terminal import DecodingBar
    from tune_fairlora.plan import describe, plan, resume

    with DecodingBar() as bar:
        made = resume.make_plan(resumed, given, bar) if resumed else plan.make_plan(SearchOptions(**given), bar)
    return describe.dry_run(made)


def _list() -> int:
    from search_spaces import SPACES

    for name, space in SPACES.items():
        print(f"{name:21} {space.about}")
    return 0
