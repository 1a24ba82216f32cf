"""A search before it starts: every option resolved and checked, everything prepared, nothing written to its folder.

What needs torch (``checks.check_weights``) comes while Ray starts, and only where ``ModelCheckCache`` lacks it.
"""

import dataclasses
import json
import math
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.bounds import constraints
from analysis.record_format import FORMAT
from search_spaces import resolve
from search_spaces.space import Point, Space
from trainables.config import FIELDS, ConfigError, lookup
from trainables.data.store import Manifest, Store
from trainables.metrics import OBJECTIVES, cell_counts
from trainables.models.backbones import fingerprint, require_file, require_size
from trainables.prepare import datasets
from tune_fairlora.algorithms.study import distribution_data
from tune_fairlora.plan import checks
from tune_fairlora.plan.search_options import OPTIONS, SearchOptions
from tune_fairlora.record.event_log import Record, collapse_floor
from tune_fairlora.tracking.tracking_uri import absolute_uri, check_store

Progress = Callable[[int, int], None]  # images decoded, and all
Begin = Callable[[SearchOptions, int, bool], None]  # options, trials in all, whether models are to be checked


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What ``runner.run`` carries out. ``weights`` is a file, "random" or None (the hub), ``store`` the images."""

    options: SearchOptions
    folder: Path
    space: Space
    store: Path
    manifest: Manifest
    weights: str | None
    trials: int  # in all, at most: with ``--seeds``, configurations times seeds
    points: tuple[Point, ...]  # by field, tried first
    record: Record | None = None  # of the search that is resumed
    test: bool = False  # whether its trials are measured on the test split: those of a confirmation

    @property
    def tracking_uri(self) -> str:
        return absolute_uri(self.options.tracking_uri)

    @property
    def epochs(self) -> int:
        """Of a full trial; where a space searches them, of its first point."""
        return self.space.config({}, 0).epochs

    def settings(self) -> dict[str, Any]:
        """What the record says of the search, plain values alone."""
        store, options = Store(self.store), self.options.kept()
        train, sizes = store.rows("train"), (len(self.manifest.classes), len(self.manifest.groups))
        return {
            "id": uuid.uuid4().hex,
            "format": FORMAT,
            "name": self.folder.name,
            **space_facts(self.space),
            **{name: options[name] for name, option in OPTIONS.items() if option.logged},
            "constraints": options["constraint"],
            "enqueue": list(self.points),
            "trials": self.trials,
            "reseed": self.options.reseeds,
            "data": self.manifest.name,
            "data_fingerprint": self.manifest.fingerprint,
            "data_notes": self.manifest.notes,
            "image_size": self.manifest.size,
            "classes": self.manifest.classes,
            "collapse_floor": collapse_floor(store.label[store.rows("val")], len(self.manifest.classes)),
            "groups": self.manifest.groups,
            "train_cells": cell_counts(store.label[train], store.group[train], *sizes).tolist(),
            "positive": self.manifest.positive,
            "store": str(self.store),
            "weights_file": self.weights or "",
            "weights": fingerprint(self.weights) or "hub",
            "tracking_uri": options["tracking_uri"],
            "experiment": options["experiment"],
            "code_version": code_version(),
            "options": options,
        }


def space_facts(space: Space) -> dict[str, Any]:
    """What makes a space this one, as plain values: a search is resumed with the same facts or not at all."""
    return {
        "space": space.name,
        "methods": list(space.methods),
        "fixed": dict(space.fixed),
        "searched": distribution_data(space.search),
        "objectives": list(space.objectives),
        "directions": [OBJECTIVES[name] for name in space.objectives],
    }


def make_plan(options: SearchOptions, progress: Progress, begin: Begin = lambda *_: None) -> Plan:
    """A new search: everything prepared, nothing written to its folder. Raises ConfigError.

    ``begin`` is called once what is quickly checked is in order.
    """
    space = resolve_space(options)
    folder = _new_folder(Path(options.storage), options.name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_addresses(options)
    points = tuple(read_points(options.enqueue, space)) if options.enqueue else ()
    base = space.config({}, 0)
    require_size(base.backbone, base.image_size)
    return assemble(options, space, folder, prepare(space, options, progress), points, begin)


def check_addresses(options: SearchOptions) -> None:
    """Raise ConfigError unless MLflow's store, the file of weights and Ray are where the options say."""
    check_store(absolute_uri(options.tracking_uri))
    require_file(options.weights)
    checks.require_ray(options.address)


def assemble(
    options: SearchOptions,
    space: Space,
    folder: Path,
    store: Path,
    points: tuple[Point, ...],
    begin: Begin,
    record: Record | None = None,
) -> Plan:
    """The plan of ``options``, once model, data and objectives are known to fit. Raises ConfigError."""
    trials = options.trials or space.trials
    if options.sampler == "grid":
        whole = math.ceil((len(points) + len(space.grid_points())) / (1 - options.reseeds))
        trials = min(options.trials or whole, whole)
    trials *= options.seeds
    space.config({}, options.seed + max(options.seeds - 1, round(options.reseeds * trials)))  # the last seed, too
    images, bounded = Store(store), (c.metric for c in constraints(options.constraint))
    checks.check_objectives((*space.objectives, *bounded), space, images)
    checks.print_notes(images)
    if options.confirm and not len(images.rows("test")):
        raise ConfigError("`confirm` needs a test split, but the data set has none: leave it out")
    models = checks.ModelCheckCache(space, options.weights, images.manifest)
    begin(options, trials, not models.known)
    return Plan(
        options=options,
        folder=folder,
        space=space,
        store=store,
        manifest=images.manifest,
        weights=models.source(store),
        trials=trials,
        points=points,
        record=record,
    )


def resolve_space(options: SearchOptions) -> Space:
    """The space with the options ``set``, ``methods``, ``epochs``, ``image_size`` and ``objectives`` in it."""
    fixed = {name: getattr(options, name) for name in ("epochs", "image_size") if getattr(options, name) is not None}
    settings: dict[str, str] = {}
    for item in options.set:
        name, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"`set` takes key=value, but got {item}")
        if name in settings or name in fixed:
            raise ConfigError(f"a hyperparameter must be set once, but {name} is set twice")
        settings[name] = text
    space = resolve(options.space).with_changes(settings, options.methods, **fixed)
    return space if options.objectives is None else dataclasses.replace(space, objectives=options.objectives)


def read_points(path: str, space: Space) -> list[Point]:
    """The points of ``--enqueue FILE``, in JSON: a list of objects, or one object a line.

    A searched hyperparameter that a point ``{"method": …, "rank": …}`` leaves out is that of its method's first point.
    Raises ConfigError on a value that the space does not hold.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`enqueue` {path} must be a file that can be read ({error})") from error
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise ConfigError(f"`enqueue` {path} must hold JSON: a list of objects, or one a line ({error})") from error
    if not entries:
        raise ConfigError(f"`enqueue` {path} must hold at least one point, but is empty")
    return [_point(entry, f"`enqueue` {path}, point {i}", space) for i, entry in enumerate(entries, 1)]


def _point(entry: Any, where: str, space: Space) -> Point:
    if not isinstance(entry, dict) or entry.get("method") not in space.methods:
        raise ConfigError(f"{where} must be an object with a method of {', '.join(space.methods)}: {entry}")
    method = entry["method"]
    point = space.first_point(method)
    for name, value in entry.items():
        kind = lookup(FIELDS, name, "hyperparameter").type
        distribution = space.distribution(name, method)
        if name != "method" and distribution is None:
            raise ConfigError(f"{where} has {name}, which this space does not search for {method}")
        if name != "method" and not space.holds(name, method, value):
            raise ConfigError(f"{where} has {name}={value}, outside of {distribution}")
        point[name] = float(value) if kind is float else value  # JSON writes a float that is whole as an int
    space.config(point, 0)  # its rules, in one line
    return point


def _new_folder(storage: Path, name: str) -> Path:
    plain = name.isprintable() and Path(name).name == name and not name.startswith(".")
    if not plain or not 0 < len(name.encode()) <= 200:  # what cannot be encoded is not printable either
        raise ConfigError(f"`name` must be a plain folder name of at most 200 bytes, but got {name!r}")
    folder = storage.resolve() / name
    if folder.exists():
        remedy = f"choose another, or --resume {name}"
        raise ConfigError(f"`name` must be new, but {storage / name} exists already: {remedy}")
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"`storage` must be a folder that can be written, but {nearest} is not")
    return folder


def prepare(space: Space, options: SearchOptions, progress: Progress) -> Path:
    """The store of the space's images, made if the cache lacks it."""
    config = space.config({}, 0)
    lenient = {"skip_corrupt": options.skip_corrupt, "allow_overlap": options.allow_overlap}
    return datasets.prepare(config.data, options.data, config.image_size, **lenient, progress=progress)


def code_version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return version("tune-fairlora")
    try:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return version("tune-fairlora")
    return version("tune-fairlora") + (f"+{git.stdout.strip()}" if git.returncode == 0 else "")
