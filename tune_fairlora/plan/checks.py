"""Whether space, data and weights fit, proved before a search starts. Each check raises ConfigError in one line.

torch comes with the last check alone, which ``proved.py`` often spares."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search_spaces.space import Space
from trainables.config import ConfigError, TrainConfig
from trainables.data.store import Store
from trainables.metrics import evaluate
from trainables.models.backbones import BACKBONES
from tune_fairlora.proved import first_configs

SMALL_CLASS = 10  # validation images, under which one image moves a class's recall by more than 10 points


def check_objectives(names: Sequence[str], space: Space, store: Store) -> None:
    """An objective or constraint that has no value even for perfect predictions would fail every trial: say so before
    the first."""
    val, manifest = store.rows("val"), store.manifest
    if len(manifest.groups) < 2:
        _refuse_group_searches(names, space)
    label, group = store.label[val], store.group[val]
    shape = {"n_classes": len(manifest.classes), "n_groups": len(manifest.groups), "positive": manifest.positive}
    perfect = evaluate(label, label, np.zeros(len(label)), group, **shape).metrics
    for name in names:
        if not np.isfinite(perfect[name.removeprefix("val_")]):
            raise ConfigError(f"objective {name} has no value on this validation split: it lacks classes or groups")


def _refuse_group_searches(names: Sequence[str], space: Space) -> None:
    """Without sensitive groups their penalty is 0 and their metrics repeat the accuracy: a search would mislead."""
    entry = space.search.get("groups")
    kinds = set(getattr(entry, "choices", ())) | {space.config({}, 0).groups}
    asked = [name for name in names if any(word in name for word in ("group", "cell", "eod", "equalized"))]
    asked += [f"groups={kind}" for kind in sorted(kinds - {"class"})]
    if asked:
        raise ConfigError(f"{asked[0]} needs at least two groups: metadata.csv must have a column group or group_name")


def warn_small(store: Store) -> None:
    """A gap between classes of a few images is mostly noise; said before hours go into it."""
    val, classes = store.rows("val"), len(store.manifest.classes)
    smallest = int(np.bincount(store.label[val], minlength=classes).min())
    if smallest < SMALL_CLASS:
        print(f"note: the smallest class has {smallest} validation images; gaps between classes will be mostly noise")


def check_weights(space: Space, weights: str | None, classes: list[str], store: Path | None = None) -> str | None:
    """The local weights file, once each method's first models were built with it, their adapters proved, and what they
    will keep of the images in ``store`` found to fit onto the disk."""
    from trainables.data import batches
    from trainables.models import adapters, create
    from trainables.training import prefix_cache

    config = space.config({}, 0)
    if config.backbone == "vit_nano" and weights is None and not create.nano_file().exists():
        print("pretraining vit_nano on plain digits: about 20 s, once", flush=True)
    path = create.weights_file(config.backbone, weights)
    source = str(path.resolve()) if isinstance(path, Path) else path
    for first in first_configs(space):
        _announce_texts(first, classes, source)
        model = adapters.adapt(create.fresh_model(first, classes, source), first)
        adapters.check_adapters(model)
        if store is not None:
            prefix_cache.Kept(model, first, batches.open_data(store), "cpu")
    return source


def _announce_texts(config: TrainConfig, classes: list[str], weights: str | None) -> None:
    if config.head == "zeroshot":
        from trainables.models import zeroshot

        row = BACKBONES[config.backbone]
        if not zeroshot.cache_file(row, tuple(classes), weights).exists():
            print(f"reading {len(classes)} class names with CLIP's text tower: a second or two each, once", flush=True)
