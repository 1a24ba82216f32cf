"""The main job: a multi-objective search over LoRA, FairLoRA, FFT and FairFFT.

python -m tune_fairlora.search --space digits
python -m tune_fairlora.search --space folder_vit_tiny --data photos/ --weights vit_tiny.safetensors
python -m tune_fairlora.search --resume NAME
python -m tune_fairlora.search --list
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("search")  # imports this file again, under its own name

import argparse
import sys

from trainables.config import FIELDS, METHODS, ConfigError
from tune_fairlora import cli
from tune_fairlora.algorithms.moasha import GRACE_PERIOD, REDUCTION_FACTOR
from tune_fairlora.tracking import tracking_uri

SAMPLER_NAMES = ("tpe", "gp", "nsga2", "random", "grid")
SCHEDULER_NAMES = ("moasha", "none")
INTERRUPTED = "interrupted before the search began; nothing was kept"


def parser() -> cli.Parser:
    """The command line; hyperparameters and their defaults come from TrainConfig."""
    p = cli.Parser(
        "search",
        "Search fine-tuning methods and their hyperparameters for accuracy (up) and ΔF1 (down).",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = p.add_argument_group("what to search")
    what.add_argument(
        "--space", metavar="NAME|FILE.py", help="a search space by name, or a Python file with SPACE = Space(…)"
    )
    what.add_argument(
        "--data",
        metavar="DIR",
        help="prepared data set (tune_fairlora.prepare); for spaces folder_*, or images with metadata.csv",
    )
    what.add_argument("--weights", metavar="FILE", help="safetensors or torch file, or: random; default: the hub")
    what.add_argument("--image-size", type=int, metavar="N", help="side of the input image in pixels")
    what.add_argument(
        "--skip-corrupt", action="store_true", help="leave out images that cannot be read, and count them"
    )
    what.add_argument("--methods", metavar="A,B", help=f"of {', '.join(METHODS)}; default: the space's")
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="fix a hyperparameter, or search values with commas; repeatable",
    )
    what.add_argument("--objectives", metavar="A,B[,C]", help="two or three validation metrics; default: the space's")
    what.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar='"METRIC>=X"',
        help="keep what breaks it off the front (>= or <=); repeatable",
    )
    how = p.add_argument_group("how to search")
    how.add_argument(
        "--trials", type=cli.positive_int, metavar="N", help="number of configurations; default: the space's"
    )
    how.add_argument("--epochs", type=int, metavar="N", help="epochs of a full trial; default: the space's")
    how.add_argument("--sampler", choices=SAMPLER_NAMES, default="tpe", help="default: %(default)s")
    how.add_argument(
        "--seed", type=cli.seed, default=0, metavar="N", help="of search and training; default: %(default)s"
    )
    how.add_argument(
        "--seeds",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="training seeds of each configuration; default: 1",
    )
    how.add_argument("--enqueue", metavar="FILE", help="JSON: points to try first, objects with method and values")
    how.add_argument(
        "--scheduler", choices=SCHEDULER_NAMES, default="moasha", help="stop poor trials early; default: %(default)s"
    )
    how.add_argument(
        "--grace-period",
        type=cli.positive_int,
        default=GRACE_PERIOD,
        metavar="N",
        help="epochs before the first comparison; default: %(default)s",
    )
    how.add_argument(
        "--reduction-factor",
        type=cli.positive_int,
        default=REDUCTION_FACTOR,
        metavar="N",
        help="the best 1/N go on; default: %(default)s",
    )
    how.add_argument(
        "--time-budget", type=cli.duration, metavar="TIME", help="end in time (30m, 2h, 90s); --resume goes on"
    )
    fault = p.add_argument_group("when something breaks")
    fault.add_argument("--resume", metavar="NAME|DIR", help="go on with a search that was broken off")
    fault.add_argument(
        "--max-failures",
        type=cli.count,
        default=2,
        metavar="N",
        help="how often a trial is tried again; default: %(default)s",
    )
    fault.add_argument(
        "--trial-timeout",
        type=cli.duration,
        metavar="TIME",
        help="end a trial without a report for so long; default: 20 times the longest epoch, at least 10m",
    )
    fault.add_argument("--resync", metavar="NAME|DIR", help="send MLflow what it has missed of a search, and stop")
    where = p.add_argument_group("where to run")
    where.add_argument(
        "--cpus-per-trial", type=cli.positive, default=1.0, metavar="X", help="default: 1; fractions are allowed"
    )
    where.add_argument(
        "--gpus-per-trial",
        type=cli.share,
        metavar="X|auto",
        help="fractions share a GPU, auto: two where they fit and GPUs are few; default: 1 where there is one",
    )
    where.add_argument("--max-concurrent", type=cli.positive_int, metavar="N", help="default: as many as fit")
    where.add_argument("--address", metavar="ADDR", help="of a Ray cluster (host:port, auto); default: Ray starts here")
    to = p.add_argument_group("where results go")
    to.add_argument(
        "--storage", default="runs", metavar="DIR", help="default: ./%(default)s; on a cluster, a shared folder"
    )
    to.add_argument("--name", metavar="NAME", help="of the folder in DIR; default: the space, date and time")
    to.add_argument(
        "--tracking-uri", default=tracking_uri.DEFAULT, metavar="URI", help="MLflow's; default: %(default)s"
    )
    to.add_argument("--experiment", default="tune-fairlora", metavar="NAME", help="MLflow's; default: %(default)s")
    look = p.add_argument_group("look first")
    look.add_argument("--list", action="store_true", help="the search spaces, one line each")
    look.add_argument("--describe", action="store_true", help="the resolved space, and what each rank trains")
    look.add_argument(
        "--dry-run", action="store_true", help="prepare and check everything, then stop before Ray starts"
    )
    return p


def _epilog() -> str:
    fields = [f"  {name:14} {spec.metadata['about']} ({spec.default})" for name, spec in FIELDS.items()]
    return "hyperparameters for --set (default; a space may differ, see --describe):\n" + "\n".join(fields)


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 failed, 2 the user's mistake, 130 or 143 interrupted."""
    return cli.run(parser(), argv, lambda args: _command(args, argv), INTERRUPTED)


def _command(args: argparse.Namespace, argv: list[str] | None) -> int:
    if args.list:
        return _list()
    if args.resync:
        from tune_fairlora.record import search_folder
        from tune_fairlora.tracking import resync

        return resync.resync(
            search_folder.find(args.resync, args.storage), cli.given(parser(), argv).get("tracking_uri")
        )
    if not args.space and not args.resume:
        raise ConfigError("--space is needed: a name of --list, or a Python file (or --resume NAME)")
    if args.describe:
        from tune_fairlora.plan import describe

        return describe.describe(args)
    if args.dry_run:
        from tune_fairlora.plan import describe

        return describe.dry_run(_plan(args, argv))
    return _search(args, argv)


def _plan(args: argparse.Namespace, argv: list[str] | None, **begin):
    """The plan of a new search, or of one that is resumed."""
    from tune_fairlora.plan import plan, resume
    from tune_fairlora.run import terminal

    with terminal.DecodingBar() as bar:
        if not args.resume:
            return plan.make_plan(args, bar, **begin)
        defaults = vars(parser().parse_args([]))
        return resume.make_plan(args, cli.given(parser(), argv), defaults, bar, **begin)


def _search(args: argparse.Namespace, argv: list[str] | None) -> int:
    from tune_fairlora.run import ray_cluster, runner, signals

    with signals.Signals() as caught, ray_cluster.Cluster() as ray:

        def begin(options: argparse.Namespace, trials: int, models: bool) -> None:
            ray.start(options, trials, models)
            caught.install()  # Ray has put a handler of its own in place

        try:
            return runner.run(_plan(args, argv, begin=begin), ray, caught)
        except KeyboardInterrupt:  # later ones are answered by `run`
            as_it_was = "interrupted before the search went on; it is as it was"
            print(as_it_was if args.resume else INTERRUPTED, file=sys.stderr)
            return caught.exit_status


def _list() -> int:
    from search_spaces import SPACES

    for name, space in SPACES.items():
        print(f"{name:21} {space.about}")
    return 0
