"""An exported model and image files, or a folder of labelled ones: logits and metrics. The export's files are only
read: ``load.py`` is our own."""

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
from trainables.files import inside, plain
from trainables.logits import evaluate_logits
from trainables.metrics import Evaluation
from trainables.prepare.listing import check_unique, read_table

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


class Exported:
    """A loaded export: ``classes`` in the order of the logits, ``groups`` of the data that it was trained on."""

    def __init__(self, model: nn.Module, facts: dict[str, Any]):
        self.model, self.facts = model, facts
        self.classes: list[str] = facts["classes"]
        self.groups: list[str] = facts["groups"]

    @torch.inference_mode()
    def predict(self, files: Sequence[Path]) -> Predictions:
        """The logits of each image file, as the search computed those of its images (its autocast type included)."""
        index, logits, failed = [], [torch.empty(0, len(self.classes))], []
        for start in range(0, len(files), BATCH):
            images = []
            for i, file in enumerate(files[start : start + BATCH], start):
                try:
                    with Image.open(file) as image:
                        pixels = load.pixels(image, self.facts["preprocessing"])
                except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
                    failed.append(file)  # damaged or no image: as ``prepare.decode`` has it
                else:
                    images.append(torch.from_numpy(pixels).permute(2, 0, 1))
                    index.append(i)
            if images:
                half = self.facts["config"].get("dtype") == "bfloat16"
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    batch = load.normalised(torch.stack(images), self.facts["preprocessing"])
                    logits.append(self.model(batch).float())
        return Predictions(index, torch.cat(logits), failed)


def open_model(folder: Path, weights: str | None) -> Exported:
    """The export in ``folder``; ``weights`` is the file that its adapter belongs to, if it names one. Raises
    ConfigError where the folder is none, is damaged, or wants another file."""
    try:
        facts = load.read_facts(folder)
        missing = [key for key in ("groups", "config", "preprocessing") if key not in facts]
        if missing:
            raise ValueError(f"{load.FACTS} lacks {missing[0]}")
        return Exported(load.load(folder, weights), facts)
    except Exception as error:  # of json, safetensors, timm or torch: what the user can do is the same
        reason = str(error).replace("base_weights", "`weights`")
        raise ConfigError(f"`model` {folder} must be a whole export, but: {reason or type(error).__name__}") from error


@dataclass(frozen=True)
class Labelled:
    """Images that a model is judged on, in parallel."""

    files: list[Path]
    label: np.ndarray  # int64 [n], of the model's classes
    group: np.ndarray  # int64 [n], of groups
    groups: list[str]
    training: int  # rows of a split called train


def read_labelled(folder: Path, split: str | None, model: Exported) -> Labelled:
    """The rows of ``folder``'s metadata.csv (as for a search, with or without splits), of one split or of all. Labels
    are told by their names, which must be the model's classes; groups too ("all" where the table names none), in the
    order of the model's, then new ones. Raises ConfigError."""
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ConfigError(f"{folder} must hold a metadata.csv (file_path, label, …), but has none: name its images")
    rows = read_table(table, ["file_path"])
    if split is not None:
        splits = sorted({row.get("split", "") for row in rows} - {""})
        if split not in splits:
            known = plain(", ".join(splits)) or "none"
            raise ConfigError(f"`split` must be one of those in {table} ({known}), but is {split}")
        rows = [row for row in rows if row["split"] == split]
    columns = {kind: next((n for n in (f"{kind}_name", kind) if n in rows[0]), None) for kind in ("label", "group")}
    if columns["label"] is None:
        raise ConfigError(f"{table} must have the column label or label_name, but has {plain(', '.join(rows[0]))}")
    labels, names = ([row[name].strip() if name else "all" for row in rows] for name in columns.values())
    unknown = sorted(set(labels) - set(model.classes))
    if unknown:
        raise ConfigError(
            f"every {columns['label']} must be one of the model's classes, but {plain(unknown[0])!r} is none"
        )
    files = [inside(folder, row["file_path"]) for row in rows]
    check_unique(files, folder)
    groups = [name for name in model.groups if name in names] + sorted(set(names) - set(model.groups))
    label, group = np.array([*map(model.classes.index, labels)]), np.array([*map(groups.index, names)])
    return Labelled(files, label, group, groups, sum(row.get("split") == "train" for row in rows))


def judge(predictions: Predictions, labelled: Labelled, model: Exported) -> Evaluation:
    """Every metric of the predictions for the files of ``labelled``."""
    label, group = labelled.label[predictions.index], labelled.group[predictions.index]
    return evaluate_logits(predictions.logits.numpy(), label, group, len(labelled.groups))
