"""Whether space, data, weights and Ray's address fit, checked before a search starts: ConfigError in one line if not.

torch comes with the last check alone, ``check_weights``, which builds each method's model: most of a search's start.
Its result depends on the configurations, the classes, the weights' content, the libraries and our code, and on nothing
else. If all of these are the same as before, a file in the cache folder says so (``ModelCheckCache``), and the search's
own process never imports torch.
"""

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from search_spaces.space import Space, first_configs
from trainables.config import ConfigError
from trainables.data.store import Manifest, Store
from trainables.files import cache_folder, file_hash, replace_atomically
from trainables.metrics import METRICS, adjusted, cell_counts, evaluate
from trainables.models.backbones import BACKBONES, RANDOM, fingerprint
from trainables.prepare import copies
from trainables.prepare.prepared import count_subjects

LIBRARIES = ("torch", "torchvision", "timm", "peft", "transformers", "open_clip_torch", "safetensors", "numpy")
# Of a configuration, what its model depends on.
MODEL_FIELDS = ["backbone", "image_size", "head", "method", "targets", "last_blocks"]
MODEL_FIELDS += ["rank", "alpha", "alpha_mode", "dropout"]
CORE = Path(__file__).resolve().parents[2] / "trainables"
ANSWER_SECONDS = 10
FEW_SUBJECTS = 10  # of a class or group in validation, under which a bootstrap over subjects is a guess
SMALL_CLASS = 10  # validation images, under which one image moves a class's recall by more than 10 points


def check_objectives(names: Sequence[str], space: Space, store: Store) -> None:
    """Refuse an objective or constraint that has no value even for perfect predictions: every trial would fail."""
    val, manifest = store.rows("val"), store.manifest
    if len(manifest.groups) < 2:  # their penalty is 0 and their metrics repeat the accuracy: a search would mislead
        kinds = set(getattr(space.search.get("groups"), "choices", ())) | {space.config({}, 0).groups}
        asked = [name for name in names if METRICS[name.removeprefix("val_")].of_groups]
        asked += [f"groups={kind}" for kind in sorted(kinds - {"class"})]
        if asked:
            rule = "needs at least two groups: metadata.csv must have a column group or group_name"
            raise ConfigError(f"{asked[0]} {rule}")
    label, group = store.label[val], store.group[val]
    classes, groups = len(manifest.classes), len(manifest.groups)
    no_loss, positive = np.zeros(len(label)), manifest.positive
    perfect = evaluate(label, label, no_loss, group, n_classes=classes, n_groups=groups, positive=positive)
    train = store.rows("train")
    best = adjusted(perfect, cell_counts(store.label[train], store.group[train], classes, groups)).metrics
    for name in names:
        if not np.isfinite(best[name.removeprefix("val_")]):
            raise ConfigError(f"objective {name} has no value on this validation split: it lacks classes or groups")


def print_notes(store: Store) -> None:
    """Print a note of images that stand twice; if the smallest class has so few images that gaps between classes are
    mostly noise; and if the images of a class or group are of few subjects."""
    for kind in copies.NOTES:
        if kind in store.manifest.notes:
            print(f"note: {store.manifest.notes[kind]}")
    val, classes = store.rows("val"), len(store.manifest.classes)
    smallest = int(np.bincount(store.label[val], minlength=classes).min())
    if smallest < SMALL_CLASS:
        print(f"note: the smallest class has {smallest} validation images; gaps between classes will be mostly noise")
    if store.subject is None:
        return
    parts = {f"class {name}": val[store.label[val] == i] for i, name in enumerate(store.manifest.classes)}
    parts |= {f"group {name}": val[store.group[val] == i] for i, name in enumerate(store.manifest.groups)}
    subjects = {part: count_subjects(store.subject[rows]) for part, rows in parts.items() if len(rows)}
    part = min(subjects, key=subjects.__getitem__)
    if subjects[part] < FEW_SUBJECTS:
        images = f"the {len(parts[part])} validation images of {part}"
        print(f"note: {images} are of {subjects[part]} subject(s): its intervals are a guess, and may be too narrow")


def check_weights(space: Space, weights: str | None, classes: list[str], store: Path | None = None) -> str | None:
    """The local weights file. Raises ConfigError unless each method's first models can be built with it, their adapters
    change the output, and there is room on the disk for what they will cache of the images in ``store``."""
    from trainables.data import batches
    from trainables.models import adapters, create
    from trainables.training import prefix_cache

    config = space.config({}, 0)
    if config.backbone == "vit_nano" and weights is None and not create.nano_file().exists():
        print("pretraining vit_nano on plain digits: about 20 s, once", flush=True)
    path = create.weights_file(config.backbone, weights)
    source = str(path.resolve()) if isinstance(path, Path) else path
    for first in first_configs(space):
        if first.head == "zeroshot":
            from trainables.models import zeroshot

            if not zeroshot.cache_file(BACKBONES[first.backbone], tuple(classes), source).exists():
                seconds = "a second or two each, once"
                print(f"reading {len(classes)} class names with CLIP's text tower: {seconds}", flush=True)
        model = adapters.adapt(create.fresh_model(first, classes, source), first)
        adapters.check_adapters(model)
        if store is not None:
            prefix_cache.PrefixCache(model, first, batches.open_data(store), "cpu")
    return source


class ModelCheckCache:
    """Whether ``space`` with the weights ``given`` passed ``check_weights`` before; the check itself if it did not."""

    def __init__(self, space: Space, given: str | None, manifest: Manifest):
        self.space, self.given, self.manifest = space, given, manifest
        self._file, self._source = self._cache_file(), ""
        # What an earlier check returned, if that file still has that content. Suppressed: what a damaged one raises.
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            earlier = json.loads(self._file.read_text()) if self._file is not None else {}
            if fingerprint(earlier["source"]) == earlier["sha256"]:
                self._source = earlier["source"]
        self.known = bool(self._source)

    def source(self, store: Path) -> str | None:
        """The weights that trials load, as ``check_weights`` returns them. Raises ConfigError if they do not fit."""
        if self.given == RANDOM:
            backbone = self.space.config({}, 0).backbone
            print(f"note: {backbone} has random weights: what is found says nothing about pretrained models")
        if self.known:
            return self._source
        source = check_weights(self.space, self.given, self.manifest.classes, store)
        if self._file is not None and source is not None:
            content = json.dumps({"source": source, "sha256": fingerprint(source)})
            with contextlib.suppress(OSError):  # on a full disk the next search checks again
                replace_atomically(self._file, lambda path: path.write_text(content))
        return source

    def _cache_file(self) -> Path | None:
        """The file of this check's result. None if a file could not hold all of the check: weights from the hub, class
        names that have to be read first, and cached outputs of blocks, which need room on the disk each time."""
        configs = list(first_configs(self.space))
        if any(config.has_prefix or config.head == "zeroshot" for config in configs):
            return None
        if self.given is None and BACKBONES[configs[0].backbone].arch:
            return None
        facts = [
            [{name: getattr(config, name) for name in MODEL_FIELDS} for config in configs],
            self.manifest.classes,
            [file_hash(path) for path in (*sorted(CORE.rglob("*.py")), Path(__file__))],
            [f"{name} {version(name)}" for name in LIBRARIES],
            fingerprint(self.given),
            "" if self.given in (None, RANDOM) else str(Path(self.given).resolve()),
        ]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        with contextlib.suppress(OSError):  # no cache folder: every search checks anew
            return cache_folder() / f"model-check-{key[:32]}.json"
        return None


def require_ray(address: str | None) -> None:
    """Raise ConfigError unless a Ray answers at ``address``; Ray would try a closed or silent port for minutes."""
    address = address_of(address)
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"`address` must be host:port, auto or local, but got {address}")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"`address` {address} does not answer ({error})") from error
    if not answers:
        raise ConfigError(f"`address` {address} answers, but not as Ray does: is it the head's port (6379 by default)?")


def address_of(address: str | None) -> str:
    """The option, else what Ray's own environment variable says, else a Ray that is started here."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _speaks_grpc(connection: socket.socket) -> bool:
    """Ray's ports speak gRPC, so HTTP/2: the server greets with a SETTINGS frame (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    frame = connection.recv(9)
    return len(frame) > 3 and frame[3] == 4
