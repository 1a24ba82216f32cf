"""Whether space, data and weights fit, proved before a search starts. Each check raises ConfigError in one line.

torch comes with the last check alone, ``check_weights``, which builds each method's model: most of a search's start.
What it proves depends on the configurations, the classes, the weights' content, the libraries and our code, and on
nothing else: where all of these are what they were, a file in the cache folder says so (``ModelCheckCache``), and the
search's own process never imports torch.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from search_spaces.space import Space, first_configs
from trainables.config import ConfigError, TrainConfig
from trainables.data.store import Manifest, Store
from trainables.files import cache_folder, file_hash, replace_atomically
from trainables.metrics import evaluate
from trainables.models.backbones import BACKBONES, RANDOM, fingerprint

LIBRARIES = ("torch", "torchvision", "timm", "peft", "transformers", "open_clip_torch", "safetensors", "numpy")
# Of a configuration, what its model depends on.
FIELDS = ("backbone", "image_size", "head", "method", "rank", "alpha", "dropout", "targets", "last_blocks")
OURS = Path(__file__).resolve().parents[2] / "trainables"
CHECKS = Path(__file__).with_name("checks.py")

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
            prefix_cache.PrefixCache(model, first, batches.open_data(store), "cpu")
    return source


def _announce_texts(config: TrainConfig, classes: list[str], weights: str | None) -> None:
    if config.head == "zeroshot":
        from trainables.models import zeroshot

        row = BACKBONES[config.backbone]
        if not zeroshot.cache_file(row, tuple(classes), weights).exists():
            print(f"reading {len(classes)} class names with CLIP's text tower: a second or two each, once", flush=True)


class ModelCheckCache:
    """Whether ``space`` with the weights ``given`` was proved before, and the proof where it was not."""

    def __init__(self, space: Space, given: str | None, manifest: Manifest):
        self.space, self.given, self.manifest = space, given, manifest
        self._file = self._where()
        self._source = self._kept()

    @property
    def known(self) -> bool:
        return self._source is not None

    def source(self, store: Path) -> str | None:
        """The weights that trials load, as ``checks.check_weights`` says. Raises ConfigError where they misfit."""
        if self.given == RANDOM:
            backbone = self.space.config({}, 0).backbone
            print(f"note: {backbone} has random weights: what is found says nothing about pretrained models")
        if self._source is not None:
            return self._source
        from tune_fairlora.plan import checks

        source = checks.check_weights(self.space, self.given, self.manifest.classes, store)
        if self._file is not None and source is not None:
            content = json.dumps({"source": source, "sha256": fingerprint(source)})
            with contextlib.suppress(OSError):  # a full disk: it is proved all the same
                replace_atomically(self._file, lambda path: path.write_text(content))
        return source

    def _kept(self) -> str | None:
        """The source of an earlier proof, if that file is still what it was."""
        try:
            kept = json.loads(self._file.read_text())
            same = fingerprint(kept["source"]) == kept["sha256"]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return kept["source"] if same else None

    def _where(self) -> Path | None:
        """The proof's file. None where it would not be the whole proof: weights from the hub, class names that have to
        be read first, and kept blocks' outputs, which want room on the disk each time."""
        configs = list(first_configs(self.space))
        if any(config.has_prefix or config.head == "zeroshot" for config in configs):
            return None
        if self.given is None and BACKBONES[configs[0].backbone].arch:
            return None
        code = [file_hash(path) for path in (*sorted(OURS.rglob("*.py")), CHECKS)]
        facts = [[{name: getattr(config, name) for name in FIELDS} for config in configs], self.manifest.classes, code]
        facts += [[f"{name} {version(name)}" for name in LIBRARIES], fingerprint(self.given)]
        where = "" if self.given in (None, RANDOM) else str(Path(self.given).resolve())
        key = hashlib.sha256(json.dumps([*facts, where]).encode()).hexdigest()
        with contextlib.suppress(OSError):  # no cache folder: nothing is kept
            return cache_folder() / f"proved-{key[:32]}.json"
        return None
