"""The search that a competent user writes today from the documentation: no line of this project is in it.

    python -m tests.benchmarks.glue --data signdigits --folder ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors --trials 12 --epochs 3 --out OUT

A function trainable, Ray's OptunaSearch with two objectives, MLflowLoggerCallback, timm, peft's LoRA, torchvision's
transforms, a DataLoader with one worker over the image files, scikit-learn's metrics. `against_glue.py` measures it
against ours, on the same points, and with the images and weights of `--data digits`, which are on no disk before.

FOLDER holds image files and metadata.csv (file_path, label, group, split; whole numbers but for the path). OUT gets
mlflow.db, Ray's own files and trials.csv: a row a trial, its configuration and what its last epoch measured.

Nothing is left out that its libraries' documentation would have made faster: fused AdamW, workers that persist between
epochs, one thread a trial as one CPU is given to it, transforms on tensors of bytes. `--reuse-actors` is Ray's option
to train several trials in one process, off by default and here.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import ray
import timm
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from sklearn.metrics import accuracy_score, f1_score
from timm.optim import param_groups_weight_decay
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

OBJECTIVES, MODES = ["val_accuracy", "val_delta_f1"], ["max", "min"]
WARM_UP, CLIP_NORM = 0.1, 1.0  # share of all steps; largest norm of a gradient
TASKS = {
    "digits": {
        "image_size": 16,
        "epochs": 8,
        "batch_size": 64,
        "augment": False,  # a flipped or cropped digit is another digit
        "ranks": [0, 1, 2, 4, 8, 16, 32],
        "lr_lora": (1e-3, 1.5e-2),
        "lr_full": (3e-4, 5e-3),
        "head_lr": None,  # the body's
        "lam": (0.01, 10.0),
    },
    "signdigits": {
        "image_size": 112,
        "epochs": 6,
        "batch_size": 32,
        "augment": True,
        "ranks": [4, 8, 16, 32, 64],
        "lr_lora": (5e-4, 1e-2),
        "lr_full": (2e-5, 5e-4),
        "head_lr": (5e-4, 1e-2),  # of full fine-tuning
        "lam": (0.01, 1.0),
    },
}


class Images(Dataset):
    """The image files of one split, opened and transformed whenever they are asked for, with their labels."""

    def __init__(self, folder: Path, rows: pd.DataFrame, transform):
        self.files = [folder / name for name in rows["file_path"]]
        self.labels = rows["label"].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[i]) as image:
            return self.transform(image.convert("RGB")), self.labels[i]


def transforms(task: dict) -> tuple[v2.Transform, v2.Transform]:
    """Of training and of evaluation."""
    size, random, fixed = task["image_size"], [], []  # digits have their size already
    if task["augment"]:
        random = [v2.RandomResizedCrop(size, scale=(0.8, 1.0), ratio=(1.0, 1.0)), v2.RandomHorizontalFlip()]
        fixed = [v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    return tuple(v2.Compose([v2.PILToTensor(), *own, *floats]) for own in (random, fixed))


def loaders(task: dict, table: pd.DataFrame) -> tuple[DataLoader, DataLoader]:
    """Of the training and of the validation split."""
    train, val = (
        Images(task["folder"], table[table["split"] == split], transform)
        for split, transform in zip(("train", "val"), transforms(task))
    )
    options = {"num_workers": 1, "persistent_workers": True}
    return DataLoader(train, task["batch_size"], shuffle=True, **options), DataLoader(val, 128, **options)


def create_model(config: dict, task: dict, classes: int) -> tuple[torch.nn.Module, set[str]]:
    """The pretrained model, of which that is trainable which the method trains, and what has no weight decay."""
    weights = {"file": task["weights"], "custom_load": False}
    model = timm.create_model(
        task["model"], pretrained=True, pretrained_cfg_overlay=weights, num_classes=classes, **task["model_options"]
    )
    torch.nn.init.trunc_normal_(model.head.weight, std=0.02)
    torch.nn.init.zeros_(model.head.bias)
    undecayed = model.no_weight_decay()
    rank = config.get("rank")
    if rank == 0:  # the head alone
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    elif rank is not None:
        lora = LoraConfig(r=rank, lora_alpha=config["alpha"], target_modules=["qkv"], modules_to_save=["head"])
        model = get_peft_model(model, lora)
    return model, undecayed


def objective(logits: torch.Tensor, label: torch.Tensor, lam: float) -> torch.Tensor:
    """Cross-entropy, and FairLoRA's penalty: λ Σ (L_g − mean L)² over the classes g that the batch has."""
    losses = F.cross_entropy(logits, label, reduction="none")
    if not lam:
        return losses.mean()
    _, group, count = label.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(count)).index_add(0, group, losses) / count
    return losses.mean() + lam * (means - means.mean()).square().sum()


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine."""
    warm = round(WARM_UP * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.inference_mode()
def evaluate(model: torch.nn.Module, loader: DataLoader, group: np.ndarray) -> dict[str, float]:
    model.eval()
    parts = [(model(images), label) for images, label in loader]
    logits, label = (torch.cat(tensors) for tensors in zip(*parts))
    truth, prediction = label.numpy(), logits.argmax(1).numpy()
    f1 = f1_score(truth, prediction, labels=range(logits.shape[1]), average=None, zero_division=0)
    return {
        "val_accuracy": accuracy_score(truth, prediction),
        "val_delta_f1": f1.max() - f1.min(),
        "val_loss": F.cross_entropy(logits, label).item(),
        "val_min_group_accuracy": pd.Series(truth == prediction).groupby(group).mean().min(),
    }


def split_head(groups: list[dict], head: torch.nn.Module, lr: float) -> list[dict]:
    """The optimiser's groups with the head's parameters in groups of their own, which have the rate ``lr``."""
    own = {id(p) for p in head.parameters()}
    body = [{**g, "params": [p for p in g["params"] if id(p) not in own]} for g in groups]
    return body + [{**g, "params": [p for p in g["params"] if id(p) in own], "lr": lr} for g in groups]


def train(config: dict, task: dict) -> None:
    """One trial: a report after each epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(task["seed"])
    table = pd.read_csv(task["folder"] / "metadata.csv")
    train_loader, val_loader = loaders(task, table)
    model, undecayed = create_model(config, task, table["label"].nunique())
    groups = param_groups_weight_decay(model, config["weight_decay"], no_weight_decay_list=undecayed)
    if "head_lr" in config:
        groups = split_head(groups, model.head, config["head_lr"])
    optimizer = torch.optim.AdamW(groups, lr=config.get("lr_lora") or config["lr_full"], fused=True)
    scheduler = LambdaLR(optimizer, partial(rate, steps=len(train_loader) * task["epochs"]))
    trainable = [p for p in model.parameters() if p.requires_grad]
    group = table.loc[table["split"] == "val", "group"].to_numpy()
    for _ in range(task["epochs"]):
        model.train()
        total = 0.0
        for images, label in train_loader:
            loss = objective(model(images), label, config.get("lam", 0.0))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, CLIP_NORM)
            optimizer.step()
            scheduler.step()
            total += loss.item()
        tune.report({"train_loss": total / len(train_loader), **evaluate(model, val_loader, group)})


def space(trial, task: dict) -> None:
    """What is searched, for Optuna; a method has its own hyperparameters alone."""
    method = trial.suggest_categorical("method", ["lora", "fairlora", "fft", "fairfft"])
    lr = "lr_lora" if "lora" in method else "lr_full"
    if "lora" in method:
        trial.suggest_categorical("rank", task["ranks"])
        trial.suggest_categorical("alpha", [8.0, 16.0, 32.0])
    elif task["head_lr"]:
        trial.suggest_float("head_lr", *task["head_lr"], log=True)
    trial.suggest_float(lr, *task[lr], log=True)
    if "fair" in method:
        trial.suggest_float("lam", *task["lam"], log=True)
    trial.suggest_float("weight_decay", 1e-4, 0.1, log=True)


def read_points(path: Path) -> list[dict]:
    """Points to try first, a list of objects in JSON. "lr" is the rate of the point's own kind of method."""
    points = json.loads(path.read_text())
    for point in points:
        point["lr_lora" if "lora" in point["method"] else "lr_full"] = point.pop("lr")
    return points


def search(args: argparse.Namespace) -> pd.DataFrame:
    """The whole search; its trials, in the order in which they began."""
    out, task = args.out.resolve(), dict(TASKS[args.data])
    task["image_size"] = args.image_size or task["image_size"]
    out.mkdir(parents=True, exist_ok=True)
    options = args.model_options or {"img_size": task["image_size"]}
    task |= {"folder": args.folder.resolve(), "weights": str(args.weights.resolve()), "seed": args.seed}
    task |= {"model": args.model, "model_options": options, "epochs": args.epochs or task["epochs"]}
    ray.init(num_cpus=args.max_concurrent)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, task=task), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                partial(space, task=task),
                metric=OBJECTIVES,
                mode=MODES,
                points_to_evaluate=read_points(args.points) if args.points else None,
                seed=args.seed,
            ),
            num_samples=args.trials,
            max_concurrent_trials=args.max_concurrent,
            reuse_actors=args.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name="glue",
            storage_path=str(out),
            callbacks=[MLflowLoggerCallback(f"sqlite:///{out}/mlflow.db", experiment_name="glue")],
        ),
    )
    return tuner.fit().get_dataframe()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(TASKS), required=True)
    p.add_argument("--folder", type=Path, required=True, help="image files and metadata.csv")
    p.add_argument("--weights", type=Path, required=True, help="a file in timm's layout")
    p.add_argument("--model", default="vit_tiny_patch16_224", help="timm's name; default: %(default)s")
    p.add_argument("--model-options", type=json.loads, help="JSON for timm.create_model; default: the task's img_size")
    p.add_argument("--image-size", type=int, help="side in pixels; default: the task's")
    p.add_argument("--points", type=Path, help="JSON: points to try first")
    p.add_argument("--trials", type=int, default=24)
    p.add_argument("--epochs", type=int, help="default: the task's")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--max-concurrent", type=int, default=2)
    p.add_argument("--reuse-actors", action="store_true")
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    table = search(args)
    table.to_csv(args.out / "trials.csv", index=False)
    print(table.sort_values("val_accuracy", ascending=False)[OBJECTIVES].to_string())


if __name__ == "__main__":
    main()
