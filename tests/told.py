"""The folder of a search whose models are drawn at random: real log, real metrics, real tables, no training."""

import json
from pathlib import Path

import numpy as np

from analysis.record_format import FORMAT
from trainables.config import TrainConfig
from trainables.metrics import evaluate
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, STOPPED
from tune_fairlora.record.tables import render

CLASSES, GROUPS, IMAGES, EPOCHS = ["cat", "dog", "owl", "=cmd()"], ["indoor", "outdoor"], 120, 4
KINDS = ("by_class", "by_group", "by_cell")
METHODS = ("lora", "fairlora", "fft", "fairfft")


def settings(name: str, **changes) -> dict:
    return {
        "id": "0123456789abcdef",
        "format": FORMAT,
        "name": name,
        "space": "digits",
        "methods": list(METHODS),
        "fixed": {"data": "digits", "backbone": "vit_nano"},
        "searched": {"rank": {"name": "CategoricalDistribution", "attributes": {"choices": [4, 8]}}},
        "objectives": ["val_accuracy", "val_delta_f1"],
        "directions": ["maximize", "minimize"],
        "classes": CLASSES,
        "groups": GROUPS,
        "collapse_floor": 0.1,
        "seeds": 1,
        "seed": 0,
        "trials": 16,
        "data": "digits",
        "data_fingerprint": "f00d",
        "weights_file": "/somewhere/of/mine/vit.safetensors",
        "weights": "beef",
        "sampler": "tpe",
        "scheduler": "moasha",
        "code_version": "0.1.0",
        **changes,
    }


def write(folder: Path, trials: int = 16, statuses=(), close: str | None = "complete", **changes) -> Path:
    """Write the folder of a search; trial i ends with ``statuses[i]``, ``COMPLETE`` by default."""
    folder.mkdir(parents=True)
    told = settings(folder.name, **changes)
    (folder / "search.json").write_text(json.dumps(told))
    record = Record(folder)
    record.add("search", settings=told)
    for number in range(trials):
        _trial(record, number, statuses[number] if number < len(statuses) else COMPLETE)
    if close:
        record.add("close", status=close)
    render(record)
    record.close()
    return folder


def _trial(record: Record, number: int, status: str) -> None:
    configuration, seed = divmod(number, record.seeds)
    step, kind = divmod(configuration, 4)
    method, rng = METHODS[kind], np.random.default_rng(number)
    lr = 10 ** np.random.default_rng(configuration).uniform(-4, -2) if step else 1e-3
    values = {"lr": lr, "seed": seed}
    values |= {"rank": (8, 4, 16)[step % 3]} if "lora" in method else {}
    values |= {"lam": (1.0, 0.1, 10.0)[step % 3]} if method.startswith("fair") else {}
    config = TrainConfig(method=method, epochs=EPOCHS, **values)
    record.add("start", number=number, values=config.hyperparameters(), config_id=config.config_id, seed=config.seed)
    for epoch in range(1, EPOCHS + 1 if status == COMPLETE else 3):
        found = _evaluation(rng, 0.4 + 0.1 * epoch, record.settings)
        metrics = {f"val_{name}": value for name, value in found.metrics.items()}
        record.add("epoch", number=number, epoch=epoch, metrics=metrics, seconds=0.1, device="cpu")
    if status == "running":
        return
    tables = {name: {k: v.tolist() for k, v in getattr(found, name).items()} for name in KINDS}
    reason = "" if status == COMPLETE else "<img src=x onerror=alert(2)>" if status != STOPPED else "place 9 of 9"
    record.add("end", number=number, status=status, reason=reason, tables=tables | {"confusion": found.confusion})


def _evaluation(rng: np.random.Generator, skill: float, told: dict):
    """Of a model that is right with probability ``skill`` and a little better at the first classes."""
    classes, groups = len(told["classes"]), len(told["groups"])
    label, group = rng.integers(0, classes, IMAGES), rng.integers(0, groups, IMAGES)
    right = rng.uniform(size=IMAGES) < skill - 0.05 * label / classes
    guess = np.where(right, label, rng.integers(0, classes, IMAGES))
    return evaluate(label, guess, rng.exponential(1, IMAGES), group, n_classes=classes, n_groups=groups)
