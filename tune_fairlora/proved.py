"""What was proved of a model stays proved: that its weights fit, and that no adapter of it is bypassed.

The proof builds each method's model, which takes torch and its kin and so most of a search's start. It depends on the
configurations, the classes, the weights' content, the libraries and our code, and on nothing else: where all of these
are what they were, a file in the cache folder says so, and the search's own process never imports torch.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from search_spaces.space import Space
from trainables.config import TrainConfig
from trainables.data.store import Manifest, cache_folder, file_hash, replace_atomically
from trainables.models.backbones import BACKBONES, RANDOM, fingerprint

LIBRARIES = ("torch", "torchvision", "timm", "peft", "transformers", "open_clip_torch", "safetensors", "numpy")
# Of a configuration, what its model depends on.
FIELDS = ("backbone", "image_size", "head", "method", "rank", "alpha", "dropout", "targets", "last_blocks")
OURS = Path(__file__).resolve().parent.parent / "trainables"
CHECKS = Path(__file__).with_name("checks.py")


class Proof:
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


def first_configs(space: Space) -> Iterator[TrainConfig]:
    """What is proved: each method's first point, with each head that it may have."""
    for method in space.methods:
        point = space.first_point(method)
        for head in getattr(space.distribution("head", method), "choices", [space.config(point, 0).head]):
            yield space.config(point | {"head": head}, 0)
