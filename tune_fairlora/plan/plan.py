"""A search before it starts: every option resolved and checked, everything prepared, nothing written to its folder.

What needs torch (``checks.check_weights``) comes while Ray starts, and only where ``proved.py`` does not know it.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from analysis.record_format import FORMAT
from search_spaces import resolve
from search_spaces.space import Space
from trainables.config import ConfigError
from trainables.data.store import Manifest, Store
from trainables.metrics import OBJECTIVES
from trainables.models.backbones import RANDOM, fingerprint, require_file, require_size
from trainables.prepare import datasets
from tune_fairlora.algorithms.study import searched_data
from tune_fairlora.plan import checks, enqueue, ray_address
from tune_fairlora.plan.checks import ModelCheckCache
from tune_fairlora.record import constraints
from tune_fairlora.record.event_log import Record, collapse_floor
from tune_fairlora.tracking.tracking_uri import absolute_uri, check_store, without_password

Begin = Callable[[argparse.Namespace, int, bool], None]  # options, most trials, whether a model is to be looked at
NOT_KEPT = ("list", "describe", "dry_run", "resume", "resync", "name", "storage")  # options of one command alone


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What ``runner.run`` carries out. ``weights`` is a file, "random" or None (the hub), ``store`` the images."""

    folder: Path
    space: Space
    store: Path
    manifest: Manifest
    weights: str | None
    trials: int  # in all: configurations times seeds
    seeds: int
    sampler: str
    scheduler: str
    grace_period: int
    reduction_factor: int
    seed: int
    constraints: tuple[str, ...]
    enqueue: tuple[dict, ...]  # points by field
    max_failures: int
    time_budget: float | None  # seconds
    trial_timeout: float | None  # seconds; None: from the epochs seen
    cpus: float
    gpus: float | str | None  # "auto": gpu_sharing.py finds out; None: one where there is one
    max_concurrent: int | None
    tracking_uri: str
    experiment: str
    options: dict  # of the command, for a resume
    record: Record | None = None  # of the search that is resumed

    @property
    def name(self) -> str:
        return self.folder.name

    def settings(self) -> dict:
        """What the record says of the search, plain values alone."""
        store = Store(self.store)
        return {
            "id": uuid.uuid4().hex,
            "format": FORMAT,
            "name": self.name,
            **space_facts(self.space),
            "sampler": self.sampler,
            "scheduler": self.scheduler,
            "grace_period": self.grace_period,
            "reduction_factor": self.reduction_factor,
            "constraints": list(self.constraints),
            "enqueue": list(self.enqueue),
            "seed": self.seed,
            "trials": self.trials,
            "seeds": self.seeds,
            "max_failures": self.max_failures,
            "data": self.manifest.name,
            "data_fingerprint": self.manifest.fingerprint,
            "data_notes": self.manifest.notes,
            "image_size": self.manifest.size,
            "classes": self.manifest.classes,
            "collapse_floor": collapse_floor(store.label[store.rows("val")], len(self.manifest.classes)),
            "groups": self.manifest.groups,
            "store": str(self.store),
            "weights_file": self.weights or "",
            "weights": fingerprint(self.weights) or "hub",
            "cpus_per_trial": self.cpus,
            "max_concurrent": self.max_concurrent,
            "tracking_uri": without_password(self.tracking_uri),
            "experiment": self.experiment,
            "code_version": code_version(),
            "options": self.options,
        }


def space_facts(space: Space) -> dict:
    """What makes a space this one, plain values alone: a search is resumed with the same or not at all."""
    return {
        "space": space.name,
        "methods": list(space.methods),
        "fixed": dict(space.fixed),
        "searched": searched_data(space),
        "objectives": list(space.objectives),
        "directions": [OBJECTIVES[name] for name in space.objectives],
    }


def nothing(args: argparse.Namespace, trials: int, models: bool) -> None:
    """What begins where a plan is all that is wanted."""


def make_plan(args: argparse.Namespace, progress, begin: Begin = nothing) -> Plan:
    """A new search from its command line: everything prepared, nothing written to its folder. Raises ConfigError.

    ``begin`` is called once what is quickly checked is in order.
    """
    space = resolve_space(args)
    folder = _new_folder(Path(args.storage), args.name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_options(args)
    points = tuple(enqueue.read(args.enqueue, space)) if args.enqueue else ()
    base = space.config({}, 0)
    require_size(base.backbone, base.image_size)
    store = prepare(space, args, progress)
    proof = ModelCheckCache(space, args.weights, Store(store).manifest)
    begin(args, most_trials(args, space), not proof.known)
    return assemble(args, space, folder, store, points, proof)


def most_trials(args: argparse.Namespace, space: Space) -> int:
    """How many trials a search has at most: a grid may have fewer."""
    return (args.trials or (sys.maxsize if args.sampler == "grid" else space.trials)) * args.seeds


def check_options(args: argparse.Namespace) -> None:
    """What can be known before images are read. Raises ConfigError."""
    check_store(absolute_uri(args.tracking_uri))
    if not args.experiment.strip():
        raise ConfigError("--experiment must have a name, but is empty")
    if args.grace_period < 1 or args.reduction_factor < 2:
        raise ConfigError("--grace-period must be at least 1 and --reduction-factor at least 2")
    constraints.parse(args.constraint)
    require_file(args.weights)
    ray_address.require_answer(args.address)


def assemble(
    args: argparse.Namespace,
    space: Space,
    folder: Path,
    store: Path,
    points: tuple[dict, ...],
    proof: ModelCheckCache,
    record: Record | None = None,
) -> Plan:
    """The plan of ``args``, once model, data and objectives are proved to fit. Raises ConfigError."""
    space.config({}, args.seed + args.seeds - 1)  # the last seed keeps its rule too
    trials = args.trials or space.trials
    if args.sampler == "grid":
        trials = min(args.trials or sys.maxsize, len(points) + len(space.grid_points()))
    images, bounded = Store(store), (c.metric for c in constraints.parse(args.constraint))
    checks.check_objectives((*space.objectives, *bounded), space, images)
    checks.warn_small(images)
    return Plan(
        folder=folder,
        space=space,
        store=store,
        manifest=images.manifest,
        weights=proof.source(store),
        trials=trials * args.seeds,
        seeds=args.seeds,
        sampler=args.sampler,
        scheduler=args.scheduler,
        grace_period=args.grace_period,
        reduction_factor=args.reduction_factor,
        seed=args.seed,
        constraints=tuple(args.constraint),
        enqueue=points,
        max_failures=args.max_failures,
        time_budget=args.time_budget,
        trial_timeout=args.trial_timeout,
        cpus=args.cpus_per_trial,
        gpus=args.gpus_per_trial,
        max_concurrent=args.max_concurrent,
        tracking_uri=absolute_uri(args.tracking_uri),
        experiment=args.experiment,
        options=options(args),
        record=record,
    )


PATHS = ("data", "weights", "enqueue")  # options that name files


def options(args: argparse.Namespace) -> dict:
    """The options of a command, with paths that mean the same from any folder."""
    values = {name: value for name, value in vars(args).items() if name not in NOT_KEPT}
    for name in PATHS:
        if values[name] and values[name] != RANDOM:
            values[name] = str(Path(values[name]).resolve())
    if values["space"].endswith(".py"):
        values["space"] = str(Path(values["space"]).resolve())
    return values | {"tracking_uri": without_password(absolute_uri(args.tracking_uri))}


def resolve_space(args: argparse.Namespace) -> Space:
    """The space with ``--set``, ``--methods``, ``--epochs``, ``--image-size`` and ``--objectives`` in it."""
    options = {"epochs": args.epochs, "image_size": args.image_size}
    fixed = {name: value for name, value in options.items() if value is not None}
    settings: dict[str, str] = {}
    for item in args.set:
        name, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set takes key=value, but got {item}")
        if name in settings or name in fixed:
            raise ConfigError(f"a hyperparameter must be set once, but {name} is set twice")
        settings[name] = text
    methods = None if args.methods is None else tuple(args.methods.split(","))
    space = resolve(args.space).with_changes(settings, methods, **fixed)
    if args.objectives is None:
        return space
    return dataclasses.replace(space, objectives=tuple(name.strip() for name in args.objectives.split(",")))


def _new_folder(storage: Path, name: str) -> Path:
    plain = name.isprintable() and Path(name).name == name and not name.startswith(".")
    if not plain or not 0 < len(name.encode()) <= 200:  # what cannot be encoded is not printable either
        raise ConfigError(f"--name must be a plain folder name of at most 200 bytes, but got {name!r}")
    folder = storage.resolve() / name
    if folder.exists():
        raise ConfigError(
            f"--name must be new, but {storage / name} exists already: choose another, or --resume {name}"
        )
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--storage must be a folder that can be written, but {nearest} is not")
    return folder


def prepare(space: Space, args: argparse.Namespace, progress) -> Path:
    config = space.config({}, 0)
    options = {"skip_corrupt": args.skip_corrupt, "progress": progress} if config.data != "digits" else {}
    return datasets.prepare(config.data, args.data, config.image_size, **options)


def code_version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return version("tune-fairlora")
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return version("tune-fairlora")
    return version("tune-fairlora") + (f"+{done.stdout.strip()}" if done.returncode == 0 else "")
