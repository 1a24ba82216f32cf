"""A search before it starts: every option resolved and checked, everything prepared, nothing written to its folder."""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from search_spaces import resolve
from search_spaces.space import Space
from trainables import adapters, backbones, data, pretrained, zeroshot
from trainables.config import METHODS, ConfigError, TrainConfig
from trainables.metrics import OBJECTIVES, evaluate
from trainables.store import Manifest
from tune_fairlora import cluster, tracking
from tune_fairlora.record import collapse_floor

SMALL_CLASS = 10  # validation images, under which one image moves a class's recall by more than 10 points


@dataclass(frozen=True)
class Plan:
    """What ``runner.run`` carries out. ``weights`` is a file, "random" or None (the hub), ``store`` the images."""

    name: str
    folder: Path
    space: Space
    store: Path
    manifest: Manifest
    weights: str | None
    trials: int  # in all: configurations times seeds
    seeds: int
    sampler: str
    seed: int
    cpus: float
    gpus: float | None
    max_concurrent: int | None
    address: str | None
    tracking_uri: str
    experiment: str

    def settings(self) -> dict:
        """What the record says of the search, plain values alone."""
        space = self.space
        return {
            "name": self.name,
            "space": space.name,
            "methods": list(space.methods),
            "fixed": dict(space.fixed),
            "objectives": list(space.objectives),
            "directions": [OBJECTIVES[name] for name in space.objectives],
            "sampler": self.sampler,
            "seed": self.seed,
            "trials": self.trials,
            "seeds": self.seeds,
            "data": self.manifest.name,
            "data_fingerprint": self.manifest.fingerprint,
            "data_notes": self.manifest.notes,
            "image_size": self.manifest.size,
            "classes": self.manifest.classes,
            "collapse_floor": collapse_floor(data.open_data(self.store).val.label.numpy(), len(self.manifest.classes)),
            "groups": self.manifest.groups,
            "store": str(self.store),
            "weights_file": self.weights or "",
            "weights": pretrained.fingerprint(self.weights) or "hub",
            "cpus_per_trial": self.cpus,
            "gpus_per_trial": self.gpus,
            "max_concurrent": self.max_concurrent,
            "code_version": code_version(),
        }


def make_plan(args: argparse.Namespace, progress) -> Plan:
    """Resolve ``args``, prepare data and weights, and prove that model, data and objectives fit. Raises ConfigError."""
    space = resolve_space(args)
    name = args.name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = _new_folder(Path(args.storage), name)
    tracking_uri = tracking.absolute_uri(args.tracking_uri)
    tracking.check_store(tracking_uri)
    if not args.experiment.strip():
        raise ConfigError("--experiment must have a name, but is empty")
    cluster.require_answer(args.address)
    space.config({}, args.seed + args.seeds - 1)  # the last seed keeps its rule too
    trials = args.trials or space.trials
    if args.sampler == "grid":
        trials = min(args.trials or sys.maxsize, len(space.grid_points()))
    check_image_size(space)
    store = _prepare(space, args, progress)
    manifest = data.open_data(store).manifest
    check_objectives(space, store)
    _warn_small(store)
    weights = check_weights(space, args.weights, manifest.classes)
    return Plan(
        name, folder, space, store, manifest, weights, trials * args.seeds, args.seeds, args.sampler, args.seed,
        args.cpus_per_trial, args.gpus_per_trial, args.max_concurrent, args.address, tracking_uri, args.experiment,
    )  # fmt: skip


def check_image_size(space: Space) -> None:
    """Raise ConfigError where the backbone does not take the image size; in shapes alone, as it may be large."""
    import torch

    base = space.config({}, 0)
    with torch.device("meta"):
        backbones.create(base.backbone, base.image_size)


def resolve_space(args: argparse.Namespace) -> Space:
    """The space with ``--set``, ``--methods``, ``--epochs`` and ``--image-size`` in it."""
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
    return resolve(args.space).with_changes(settings, methods, **fixed)


def _new_folder(storage: Path, name: str) -> Path:
    if not name or Path(name).name != name or name.startswith(".") or len(name.encode()) > 200:
        raise ConfigError(f"--name must be a plain folder name of at most 200 bytes, but got {name!r}")
    folder = storage.resolve() / name
    if folder.exists():
        raise ConfigError(f"--name must be new, but {storage / name} exists already: choose another")
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--storage must be a folder that can be written, but {nearest} is not")
    return folder


def _prepare(space: Space, args: argparse.Namespace, progress) -> Path:
    config = space.config({}, 0)
    options = {"skip_corrupt": args.skip_corrupt, "progress": progress} if config.data != "digits" else {}
    return data.prepare(config.data, args.data, config.image_size, **options)


def check_objectives(space: Space, store: Path) -> None:
    """An objective that has no value even for perfect predictions would fail every trial: say so before the first."""
    val, manifest = data.open_data(store).val, data.open_data(store).manifest
    if len(manifest.groups) < 2:
        _refuse_group_searches(space)
    label, group = val.label.numpy(), val.group.numpy()
    shape = {"n_classes": len(manifest.classes), "n_groups": len(manifest.groups), "positive": manifest.positive}
    perfect = evaluate(label, label, np.zeros(len(label)), group, **shape).metrics
    for name in space.objectives:
        if not np.isfinite(perfect[name.removeprefix("val_")]):
            raise ConfigError(f"objective {name} has no value on this validation split: it lacks classes or groups")


def _refuse_group_searches(space: Space) -> None:
    """Without sensitive groups their penalty is 0 and their metrics repeat the accuracy: a search would mislead."""
    entry = space.search.get("groups")
    kinds = set(getattr(entry, "choices", ())) | {space.config({}, 0).groups}
    asked = [name for name in space.objectives if any(word in name for word in ("group", "cell", "eod", "equalized"))]
    asked += [f"groups={kind}" for kind in sorted(kinds - {"class"})]
    if asked:
        raise ConfigError(f"{asked[0]} needs at least two groups: metadata.csv must have a column group or group_name")


def _warn_small(store: Path) -> None:
    """A gap between classes of a few images is mostly noise; said before hours go into it."""
    val, manifest = data.open_data(store).val, data.open_data(store).manifest
    smallest = int(np.bincount(val.label.numpy(), minlength=len(manifest.classes)).min())
    if smallest < SMALL_CLASS:
        print(f"note: the smallest class has {smallest} validation images; gaps between classes will be mostly noise")


def check_weights(space: Space, weights: str | None, classes: list[str]) -> str | None:
    """The local weights file, once each method's first models were built with it and their adapters proved."""
    config = space.config({}, 0)
    if config.backbone == "vit_nano" and weights is None and not backbones.nano_file().exists():
        print("pretraining vit_nano on plain digits: about 20 s, once", flush=True)
    if weights == pretrained.RANDOM:
        print(f"note: {config.backbone} has random weights: what is found says nothing about pretrained models")
    path = backbones.weights_file(config.backbone, weights)
    source = str(path.resolve()) if isinstance(path, Path) else path
    for method in space.methods:
        point = space.first_point(method)
        for head in getattr(space.distribution("head", method), "choices", [space.config(point, 0).head]):
            first = space.config(point | {"head": head}, 0)
            _announce_texts(first, classes, source)
            adapters.check_adapters(adapters.adapt(backbones.fresh_model(first, classes, source), first))
    return source


def _announce_texts(config: TrainConfig, classes: list[str], weights: str | None) -> None:
    if config.head == "zeroshot":
        row = backbones.BACKBONES[config.backbone]
        if not zeroshot.cache_file(row, tuple(classes), weights).exists():
            print(f"reading {len(classes)} class names with CLIP's text tower: a second or two each, once", flush=True)


def parameter_lines(space: Space, n_classes: int) -> list[str]:
    """What each method and rank trains: "rank 8: 325,672 of 86,155,088 parameters"; computed without weights."""
    import torch

    lines = []
    for methods in _alike(space.methods):
        point = space.first_point(methods[0])
        distribution = space.distribution("rank", methods[0])
        default = space.config(point, 0).rank
        ranks = getattr(distribution, "choices", None) or ([default] if METHODS[methods[0]].lora else [None])
        for rank in ranks:
            config = space.config(point | ({"rank": rank} if rank is not None else {}), 0)
            with torch.device("meta"):
                model = _skeleton(config, n_classes)
            trainable, total = adapters.parameter_counts(model)
            prefix = f"rank {rank}" if rank is not None else "every weight"
            lines.append(f"{', '.join(methods):15} {prefix}: {trainable:,} of {total:,} parameters")
    return lines


def _alike(methods: tuple[str, ...]) -> list[list[str]]:
    """The methods that train the same weights, together: the penalty adds none."""
    kinds = ([m for m in methods if METHODS[m].lora], [m for m in methods if not METHODS[m].lora])
    return [kind for kind in kinds if kind]


def _skeleton(config: TrainConfig, n_classes: int):
    return adapters.adapt(backbones.skeleton(config, n_classes), config)


def code_version() -> str:
    """The package's version, and the commit where it runs from a clone."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return version("tune-fairlora")
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return version("tune-fairlora")
    return version("tune-fairlora") + (f"+{done.stdout.strip()}" if done.returncode == 0 else "")
