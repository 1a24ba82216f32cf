"""The zero-shot head computes what open_clip does, starts every trial from one file, and trains like any other head."""

import time

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from tests.processes import patience
from trainables.config import ConfigError, TrainConfig
from trainables.data.batches import open_data
from trainables.data.store import Manifest, write
from trainables.models import clip, zeroshot
from trainables.models.adapters import adapt, check_adapters, parameter_counts
from trainables.models.backbones import RANDOM
from trainables.models.class_token import read_last_row
from trainables.models.create import BACKBONES, create, fresh_model, load, skeleton
from trainables.models.forward import forward
from trainables.training.fit import evaluate_split, fit
from trainables.training.optimizer import parameter_groups

CLASSES = ("red_square", "blue_square")
CONFIG = TrainConfig(
    backbone="clip_b32", head="zeroshot", image_size=32, rank=4, lr=1e-3, batch_size=8, epochs=2, flip=False, crop=1.0
)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Text embeddings are made anew in every session, and once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        zeroshot.parts.cache_clear()
        yield
        zeroshot.parts.cache_clear()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Forty 32 px images, red or blue with noise."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("store") / "squares.arrow"
    rows = []
    for i in range(40):
        image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        image[..., 0 if i % 2 == 0 else 2] += 180
        rows.append((image, i % 2, i // 2 % 2, "train" if i < 24 else "val"))
    write(path, Manifest("squares", 32, list(CLASSES), ["a", "b"], fingerprint="x"), rows)
    return open_data(path)


@pytest.mark.parametrize("name", ["clip_b32", pytest.param("clip_b32_openai", marks=pytest.mark.slow)])
def test_logits_are_those_of_open_clip(name):
    row, config = BACKBONES[name], TrainConfig(backbone=name, head="zeroshot", image_size=224)
    theirs = clip.build(row)
    theirs.load_state_dict(clip.state_dict(name, row, RANDOM))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = fresh_model(config, CLASSES, RANDOM)
    tokenizer = open_clip.get_tokenizer(row.clip)
    with torch.inference_mode():
        weight = expected_row(theirs, tokenizer, "red square")  # one class is enough: it takes seconds
        expected = theirs.logit_scale.exp() * F.normalize(theirs.encode_image(images), dim=-1) @ weight
        torch.testing.assert_close(ours(images)[:, 0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.head.weight[0], weight, rtol=0, atol=1e-6)
    assert (ours.head.weight[0] - ours.head.weight[1]).abs().max() > 1e-4
    assert ours.head.scale == pytest.approx(1 / 0.07)


def expected_row(theirs, tokenizer, text: str) -> torch.Tensor:
    """The class's row as OpenAI's notebook makes it, with all 77 tokens."""
    assert len(open_clip.OPENAI_IMAGENET_TEMPLATES) == 80
    sentences = tokenizer([template(text) for template in open_clip.OPENAI_IMAGENET_TEMPLATES])
    assert sentences.shape == (80, 77)
    return F.normalize(F.normalize(theirs.encode_text(sentences), dim=-1).mean(dim=0), dim=-1)


def test_texts_are_read_once_for_all_processes():
    row = BACKBONES["clip_b32"]
    path = zeroshot.cache_file(row, CLASSES, RANDOM)
    first = zeroshot.parts("clip_b32", row, CLASSES, RANDOM)
    written = path.stat().st_mtime_ns
    zeroshot.parts.cache_clear()  # as in another process
    start = time.perf_counter()
    again = zeroshot.parts("clip_b32", row, CLASSES, RANDOM)
    assert time.perf_counter() - start < patience(1) and path.stat().st_mtime_ns == written
    assert all(torch.equal(again[k], v) for k, v in first.items())


def test_the_cache_knows_what_the_embeddings_depend_on(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    row, openai = BACKBONES["clip_b32"], BACKBONES["clip_b32_openai"]
    cases = [(row, CLASSES, RANDOM), (row, CLASSES[::-1], RANDOM), (row, CLASSES, None), (openai, CLASSES, RANDOM)]
    cases += [(row, CLASSES, str(tmp_path / name)) for name in "ab"]
    assert len({zeroshot.cache_file(*case) for case in cases}) == len(cases)


@pytest.mark.slow
def test_two_epochs_train_and_a_checkpoint_goes_on(store):
    checkpoints, metrics = [], []
    for epoch in fit(CONFIG, store, RANDOM):
        checkpoints.append(epoch.trainer.checkpoint())
        metrics.append(epoch.metrics)
    assert {name for name in checkpoints[1]["model"] if "lora_" not in name} == {"head.weight"}
    first, second = (each["model"]["head.weight"] for each in checkpoints)
    assert metrics[1]["train_loss"] != metrics[0]["train_loss"] and not torch.equal(first, second)
    (resumed,) = fit(CONFIG, store, RANDOM, checkpoint=checkpoints[0])
    assert resumed.metrics == metrics[1]
    assert all(torch.equal(v, checkpoints[1]["model"][k]) for k, v in resumed.trainer.checkpoint()["model"].items())


def test_full_fine_tuning_trains_the_projection_in_the_body():
    config = TrainConfig(**{**vars(CONFIG), "method": "fft", "lr": 0.1, "head_lr": 0.2})
    model = adapt(fresh_model(config, CLASSES, RANDOM), config)
    forward(model, torch.rand(4, 3, 32, 32), config).square().sum().backward()
    peaks = {id(p): group["lr"] for group in parameter_groups(model, config) for p in group["params"]}
    assert peaks[id(model.fc_norm.weight)] == 0.1
    assert [name for name, p in model.named_parameters() if peaks[id(p)] == 0.2] == ["head.weight"]
    assert all(p.grad is not None and p.grad.any() for p in (model.fc_norm.weight, model.head.weight))
    assert not any("scale" in name for name, _ in model.named_parameters())


def test_a_trained_head_is_restored_from_its_weights(store):
    for epoch in fit(CONFIG, store, RANDOM):
        state = epoch.trainer.checkpoint()["model"]
    model = adapt(fresh_model(CONFIG, CLASSES, RANDOM), CONFIG)
    assert not torch.equal(model.head.weight, state["head.weight"])
    model.load_state_dict(state, strict=False)
    read_last_row(model)  # as in training, so that sums are rounded alike
    assert evaluate_split(model, store, store.val, CONFIG).metrics == epoch.evaluation.metrics


def test_autocast_keeps_the_head_in_full_precision():
    model = fresh_model(CONFIG, CLASSES, RANDOM).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = forward(model, images, CONFIG)
        half = forward(model, images, TrainConfig(**{**vars(CONFIG), "dtype": "bfloat16"}))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0, atol=0.1)


@pytest.mark.parametrize("method", ["lora", "fft"])
def test_counts_without_weights_are_those_of_the_model(method):
    config = TrainConfig(**{**vars(CONFIG), "method": method})
    model = adapt(fresh_model(config, CLASSES, RANDOM), config)
    check_adapters(model)
    with torch.device("meta"):
        assert parameter_counts(adapt(skeleton(config, 2), config)) == parameter_counts(model)


def test_the_first_logits_do_not_depend_on_the_seed():
    heads = [fresh_model(TrainConfig(**{**vars(CONFIG), "seed": seed}), CLASSES, RANDOM).head for seed in (0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_a_file_without_the_text_tower_is_refused_in_one_line(tmp_path):
    state = create("clip_b32", 32).state_dict()  # timm's layout: the image tower alone
    safetensors.torch.save_file(state, tmp_path / "visual.safetensors")
    path = str(tmp_path / "visual.safetensors")
    load.cache_clear()
    assert load("clip_b32", 32, path).pos_embed.shape == (1, 2, 768)  # enough for a linear head
    with pytest.raises(
        ConfigError, match=r"^head=zeroshot needs both of CLIP's towers, .* lack visual\.proj: take"
    ) as e:
        fresh_model(CONFIG, CLASSES, path)
    assert "\n" not in str(e.value) and str(e.value).endswith("(open_clip_model.safetensors), or head=linear")


def test_a_file_whose_text_tower_is_another_names_the_misfits(tmp_path):
    state = clip.state_dict("clip_b32", BACKBONES["clip_b32"], RANDOM)
    state = {k: v for k, v in state.items() if not k.startswith("transformer.resblocks.11.")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"do not fit clip_b32: transformer\.resblocks\.11\.ln_1\.weight is missing"):
        zeroshot.parts("clip_b32", BACKBONES["clip_b32"], CLASSES, str(tmp_path / "w.pt"))
