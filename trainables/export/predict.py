"""An exported model and image files: logits and metrics. Nothing in the export is run: ``load.py`` is our own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from trainables.config import ConfigError
from trainables.export import load
from trainables.metrics import Evaluation, evaluate
from trainables.training.penalty import sample_losses

BATCH = 64  # images in memory at once


@dataclass(frozen=True)
class Predictions:
    """``logits`` float32 ``[n, classes]`` of the files at ``index``; those in ``failed`` could not be read."""

    index: list[int]
    logits: Tensor
    failed: list[Path]

    @property
    def probability(self) -> np.ndarray:
        """float ``[n, classes]``."""
        return self.logits.softmax(dim=1).numpy()


@dataclass(frozen=True)
class Exported:
    """A loaded export: ``classes`` in the order of the logits, ``groups`` of the data that it was trained on."""

    model: nn.Module
    facts: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return self.facts["classes"]

    @property
    def groups(self) -> list[str]:
        return self.facts["groups"]

    @torch.inference_mode()
    def predict(self, files: Sequence[Path]) -> Predictions:
        """The logits of each image file, as the search computed those of its images (its autocast type included)."""
        index, logits, failed = [], [torch.empty(0, len(self.classes))], []
        for start in range(0, len(files), BATCH):
            images = []
            for i, file in enumerate(files[start : start + BATCH], start):
                pixels = self._pixels(file)
                if pixels is None:
                    failed.append(file)
                else:
                    images.append(torch.from_numpy(pixels).permute(2, 0, 1))
                    index.append(i)
            if images:
                half = self.facts["config"].get("dtype") == "bfloat16"
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    batch = load.normalised(torch.stack(images), self.facts["preprocessing"])
                    logits.append(self.model(batch).float())
        return Predictions(index, torch.cat(logits), failed)

    def _pixels(self, file: Path) -> np.ndarray | None:
        """As ``prepare.decode`` has it: None where the file is damaged or no image."""
        try:
            with Image.open(file) as image:
                return load.pixels(image, self.facts["preprocessing"])
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            return None


def open_model(folder: Path, weights: str | None) -> Exported:
    """The export in ``folder``; ``weights`` is the file that its adapter belongs to, if it names one.

    Raises ConfigError where the folder is none, is damaged, or wants another file.
    """
    try:
        facts = load.read_facts(folder)
        missing = [key for key in ("groups", "config", "preprocessing") if key not in facts]
        if missing:
            raise ValueError(f"{load.FACTS} lacks {missing[0]}")
        return Exported(load.load(folder, weights), facts)
    except Exception as error:  # of json, safetensors, timm or torch: what the user can do is the same
        reason = str(error).replace("base_weights", "`weights`")
        raise ConfigError(f"`model` {folder} must be a whole export, but: {reason or type(error).__name__}") from error


def judge(predictions: Predictions, label: np.ndarray, group: np.ndarray, n_classes: int, n_groups: int) -> Evaluation:
    """Every metric of the predictions against ``label`` and ``group`` (int, of all the files that were asked for)."""
    label, group = label[predictions.index], group[predictions.index]
    loss = sample_losses(predictions.logits, torch.from_numpy(label)).numpy()
    prediction = predictions.logits.argmax(dim=1).numpy()
    return evaluate(label, prediction, loss, group, n_classes=n_classes, n_groups=n_groups)
