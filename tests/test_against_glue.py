"""The comparison with `glue.py` is one of equals: same points, images, model, loss; and its arithmetic is right."""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from search_spaces import SPACES
from tests.benchmarks import against_glue, first_front, glue
from tests.processes import patience
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.store import Manifest, write
from trainables.models.create import BACKBONES, load, weights_file
from trainables.models.vit_nano import OPTIONS as NANO
from trainables.prepare import datasets
from trainables.training import penalty
from trainables.training.fit import Trainer

SPACE_OF = {"digits": SPACES["digits"], "signdigits": SPACES["folder_vit_tiny"]}


def test_glue_has_no_line_of_ours():
    lines = Path(glue.__file__).read_text().splitlines()
    used = {line.split()[1].partition(".")[0] for line in lines if line.lstrip().startswith(("import ", "from "))}
    assert {"ray", "torch", "timm", "peft", "sklearn"} < used
    assert not used & {"trainables", "search_spaces", "analysis", "tune_fairlora", "tests"}


@pytest.mark.parametrize("name", SPACE_OF)
def test_glue_searches_our_space(name, tmp_path):
    space, task = SPACE_OF[name], glue.TASKS[name]
    points = against_glue.drawn_points(space, 24)
    assert points == against_glue.drawn_points(space, 24)
    assert len({json.dumps(point) for point in points}) == 24
    (tmp_path / "points.json").write_text(json.dumps(points))
    for point, named in zip(points, glue.read_points(tmp_path / "points.json")):
        trial = against_glue.optuna.trial.FixedTrial(named)
        glue.space(trial, task)
        renamed = {k if not k.startswith("lr_") else "lr": v for k, v in trial.params.items()}
        assert renamed == point == {k: getattr(space.config(point, 0), k) for k in point}
        ours = space.distribution("lr", point["method"])
        assert task["lr_lora" if "lora" in point["method"] else "lr_full"] == (ours.low, ours.high)
        for field in point.keys() & {"lam", "head_lr"}:
            ours = space.distribution(field, point["method"])
            assert task[field] == (ours.low, ours.high)
    assert tuple(task["ranks"]) == space.distribution("rank", "lora").choices
    fixed = space.config(space.first_point("lora"), 0)
    assert task["batch_size"] == fixed.batch_size
    assert task["augment"] == fixed.flip == (fixed.crop < 1)
    assert (fixed.warmup, fixed.clip_norm) == (glue.WARM_UP, glue.CLIP_NORM)
    assert BACKBONES[fixed.backbone].mean == BACKBONES[fixed.backbone].std == (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def digits() -> batches.Data:
    return batches.open_data(datasets.prepare("digits", None, 16))


def test_glue_trains_the_head_at_its_own_rate():
    model = torch.nn.Module()
    model.body, model.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)
    groups = glue.param_groups_weight_decay(model, 0.01)
    split = glue.split_head(groups, model.head, 0.5)
    rates = {id(p): g.get("lr") for g in split for p in g["params"]}
    assert rates == {id(p): 0.5 if name.startswith("head.") else None for name, p in model.named_parameters()}
    decays = {id(p): g["weight_decay"] for g in split for p in g["params"]}
    assert decays == {id(p): g["weight_decay"] for g in groups for p in g["params"]}


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": 8, "alpha": 16.0}, {}])
def test_glue_trains_what_we_train(digits, values):
    config = TrainConfig(method="lora" if values else "fft", **values)
    task = {"model": "vit_tiny_patch16_224", "model_options": NANO, "weights": str(weights_file("vit_nano", None))}
    model, undecayed = glue.create_model(values, task, 10)
    groups = glue.param_groups_weight_decay(model, 0.01, no_weight_decay_list=undecayed)
    trainer = Trainer(config, digits, None, "cpu", None)
    assert _by_decay(groups) == _by_decay(trainer.train_step.optimizer.param_groups)
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # untrained adapters change nothing, and heads are drawn
        base = model.base_model.model if hasattr(model, "base_model") else model
        features = base.eval().forward_head(base.forward_features(noise), pre_logits=True)
        assert torch.allclose(features, load("vit_nano", 16, None)(noise), atol=1e-6)
    steps = [trainer._schedule(step) for step in range(trainer.steps_per_epoch * config.epochs)]
    assert steps == pytest.approx([glue.rate(step, len(steps)) for step in range(len(steps))], rel=1e-12)


def _by_decay(groups: list[dict]) -> dict[float, int]:
    """How many numbers are trained under each weight decay."""
    counts: dict[float, int] = {}
    for group in groups:
        n = sum(p.numel() for p in group["params"])
        counts[group["weight_decay"]] = counts.get(group["weight_decay"], 0) + n
    return {decay: n for decay, n in counts.items() if n}


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_glue_has_our_objective(lam):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator, dtype=torch.float64).float().requires_grad_()
    label = torch.randint(0, 7, (32,), generator=generator)  # three classes are absent
    config = TrainConfig(method="fairlora" if lam else "lora", lam=lam)
    total = penalty.TrainingLoss(config, 10, 1, "cpu")(penalty.sample_losses(logits, label), label, label).total
    ours = torch.autograd.grad(total, logits)[0]
    theirs = torch.autograd.grad(glue.objective(logits, label, lam), logits)[0]
    assert torch.allclose(ours, theirs, atol=1e-7)
    assert math.isclose(glue.objective(logits, label, lam).item(), total.item(), rel_tol=1e-6)


def test_images_reach_glue_to_the_last_bit(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    rows = [(image, i % 2, i % 3, ("train", "val", "test")[i % 3]) for i, image in enumerate(drawn)]
    write(tmp_path / "store.arrow", Manifest("drawn", 8, ["a", "b"], ["x", "y", "z"]), rows)
    against_glue.write_images(tmp_path / "store.arrow", tmp_path / "images")
    table = pd.read_csv(tmp_path / "images" / "metadata.csv")
    assert sorted(table["split"]) == ["train", "train", "val", "val"]  # nobody sees test
    for row in table.itertuples():
        i = int(row.file_path.removesuffix(".png"))
        assert (row.label, row.group, row.split) == rows[i][1:]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / row.file_path)), drawn[i])


def ran(*trials: dict, began: float = 100.0) -> against_glue.Run:
    return against_glue.Run(began, 1.0, pd.DataFrame(trials))


def trial(method: str, lr: float, accuracy: float, gap: float, time: float = 0.0, **values) -> dict:
    return {"method": method, "lr": lr, "val_accuracy": accuracy, "val_delta_f1": gap, "time": time, **values}


def test_results_are_found_by_configuration_not_by_order():
    points = [{"method": "fft", "lr": 0.1}, {"method": "lora", "lr": 0.1, "rank": 0}, {"method": "fft", "lr": 0.2}]
    run = ran(trial("lora", 0.1, 0.5, 0.4, rank=0.0), trial("fft", 0.1, 0.7, 0.3, rank=math.nan))
    found = against_glue.by_point(run, points)
    np.testing.assert_array_equal(found, [[0.7, 0.3], [0.5, 0.4], [math.nan, math.nan]])
    with pytest.raises(ValueError):
        against_glue.by_point(run, points[:1])  # a trial that nobody asked for
    with pytest.raises(ValueError):
        against_glue.by_point(run, [*points, points[0]])


def test_a_front_reaches_its_target_with_the_trial_that_brings_it_there():
    run = ran(
        trial("fft", 0.3, 0.9, 0.5, time=130.0),
        trial("fft", 0.1, 0.5, 0.2, time=110.0),
        trial("fft", 0.2, 0.4, 0.3, time=120.0),
        trial("fft", 0.4, math.nan, math.nan, time=105.0),
    )
    curve = against_glue.volumes(run)
    assert [seconds for seconds, _ in curve] == [10.0, 20.0, 30.0]
    # 0.5 x 0.8; a dominated trial adds nothing; 0.4 more accuracy at 1 - 0.5
    assert [volume for _, volume in curve] == pytest.approx([0.4, 0.4, 0.6])
    assert [against_glue.reached(curve, target) for target in (0.3, 0.5, 0.7)] == [10.0, 30.0, math.inf]


def results(seed: int, rounds: int, shift: float = 0.0, spread: float = 0.02) -> np.ndarray:
    middle = np.random.default_rng(0).uniform(0.2, 0.8, (24, 2))
    return middle + shift + np.random.default_rng(seed).normal(0, spread, (rounds, 24, 2))


def test_a_search_is_ended_once_its_front_is_good_enough(tmp_path):
    """Glue's trials count with their last epoch, in the order of their ends."""
    inputs = argparse.Namespace(setup=against_glue.UNTIL._replace(epochs=2), data="digits", database=tmp_path / "db")
    inputs.database.touch()
    out, now = tmp_path / "out", time.time()

    def later() -> pd.DataFrame:
        for name, best in (("a", 0.5), ("b", 0.9)):
            folder = out / "glue" / name
            folder.mkdir(parents=True, exist_ok=True)
            epochs = [(1, 0.99, now), (2, best, now + 1000 * best)] if name == "a" or time.time() > now + 3 else []
            rows = [
                {"training_iteration": n, "val_accuracy": a, "val_delta_f1": 0.0, "timestamp": t} for n, a, t in epochs
            ]
            (folder / "result.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"training_it')
        return first_front.glue_trials(out, inputs)

    sleeps = ["timeit", "-n1", "-r1", f"import time; time.sleep({patience(200)})"]
    seconds = first_front.seconds_to(0.8, sleeps, later, out, inputs)
    took = time.time() - now
    assert 900 - took <= seconds <= 900 and 3 < took < patience(60)  # from the command's start, which is behind `now`
    ends = ["timeit", "-n1", "-r1", "pass"]
    assert first_front.seconds_to(0.95, ends, later, tmp_path / "out2", inputs) == math.inf


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_differs_by_noise_agrees_and_a_shift_does_not(rounds, capsys):
    ours = results(1, rounds)
    assert against_glue.agreement(ours, results(2, rounds), images=500, classes=10)
    assert not against_glue.agreement(ours, results(2, rounds, shift=0.1), images=500, classes=10)
    assert not against_glue.agreement(ours, results(2, rounds)[:, ::-1], images=500, classes=10)
    assert capsys.readouterr().out.count("24 of 24 trials") == 3


def test_the_noise_is_that_of_the_seeds_or_of_the_number_of_images():
    ours, theirs = results(1, 200, spread=0.03), results(2, 200, spread=0.03)
    np.testing.assert_allclose(against_glue.run_noise(ours, theirs, 1000, 10), [0.03, 0.03], rtol=0.05)
    half = np.full((1, 5, 2), 0.5)
    np.testing.assert_allclose(against_glue.run_noise(half, half, 100, 10), [0.05, math.sqrt(0.05)])
