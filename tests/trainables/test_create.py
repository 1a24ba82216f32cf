"""Each backbone has its own weights, size, normalisation and head, and the cache of pristine models stays clean."""

import math
import subprocess
import sys

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from tests.processes import patience
from tests.weights import same, saved
from trainables.config import ConfigError, TrainConfig
from trainables.models.adapters import adapt, check_adapters, parameter_counts
from trainables.models.backbones import RANDOM, fingerprint
from trainables.models.create import BACKBONES, create, fresh_model, load, skeleton, weights_file
from trainables.training.optimizer import parameter_groups

TINY, CLIP, OPENAI, SWIN = "vit_tiny", "clip_b32", "clip_b32_openai", "swinv2_t"
CLASSES = tuple("0123456789")

pytestmark = pytest.mark.usefixtures("no_loaded_model")


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^`weights` must be a file or the word random, but .*none\.pt is no file$"):
        weights_file("vit_nano", tmp_path / "none.pt")


def test_position_embeddings_are_resampled_to_the_image(tmp_path):
    state = create(TINY, 64).state_dict()
    model = load(TINY, 96, saved(state, tmp_path / "w.safetensors"))
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, expected) and expected.shape == (1, 37, 192)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token's stays
    assert torch.equal(model.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("name", ["dino_b16", CLIP])
def test_other_transformers_are_resampled_too(tmp_path, name):
    state = create(name, 64).state_dict()
    model = load(name, 96, saved(state, tmp_path / "w.safetensors"))
    grid = 96 // model.patch_embed.patch_size[0]
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[grid, grid], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, expected)


def test_a_swins_windows_grow_with_the_image(tmp_path):
    state = create(SWIN, 256).state_dict()
    path = saved({**state, "head.fc.weight": torch.zeros(9, 768)}, tmp_path / "w.safetensors")
    for size, windows in ((256, [8, 8, 8, 8]), (64, [2, 2, 2, 2])):
        model = load(SWIN, size, path)
        assert [stage.blocks[0].window_size[0] for stage in model.layers] == windows
        assert same(model.state_dict(), state)
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 768)


def test_at_its_own_size_a_swin_is_timms(tmp_path):
    theirs = timm.create_model("swinv2_tiny_window8_256", num_classes=0).eval()
    ours = load(SWIN, 256, saved(theirs.state_dict(), tmp_path / "w.pt"))
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)  # features of about 1


@pytest.mark.parametrize(("name", "size"), [(TINY, 100), (TINY, 8), (CLIP, 48)])
def test_an_image_that_the_patches_do_not_tile_is_refused(name, size):
    with pytest.raises(ConfigError, match=rf"^`image_size` must be a multiple of {name}'s patch of .* but got {size}$"):
        create(name, size)


@pytest.mark.parametrize("size", [32, 100, 112])
def test_an_image_that_the_windows_do_not_tile_is_refused(size):
    rule = rf"^`image_size` must be a multiple of 32 and at least 64 for swinv2_t's windows, but got {size}$"
    with pytest.raises(ConfigError, match=rule):
        create(SWIN, size)


@pytest.mark.parametrize("targets", ["qkv", "qv", "all"])
def test_a_swin_gets_a_head_behind_its_pooling_and_adapters_that_are_heard(targets):
    config = TrainConfig(backbone=SWIN, image_size=64, targets=targets)
    model = adapt(fresh_model(config, CLASSES, RANDOM), config)
    check_adapters(model)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10) and model.head.fc.weight.std() < 0.03
    with torch.device("meta"):
        assert parameter_counts(adapt(skeleton(config, 10), config)) == parameter_counts(model)


def test_a_swins_position_bias_and_temperature_do_not_decay():
    config = TrainConfig(backbone=SWIN, image_size=64, method="fft", weight_decay=0.1, head_lr=0.5)
    model = fresh_model(config, CLASSES, RANDOM)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, config)
    decaying = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert {"head.fc.weight", "layers.0.blocks.0.attn.qkv.weight"} < decaying
    assert not any("cpb_mlp" in n or n.endswith(("logit_scale", "bias")) or "norm" in n for n in decaying)
    assert {names[id(p)] for g in groups if g["lr"] == 0.5 for p in g["params"]} == {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize(("name", "size"), [(TINY, 32), (CLIP, 32), (SWIN, 64), ("vit_nano", 16)])
def test_random_weights_are_the_same_in_every_trial(name, size):
    first = load(name, size, RANDOM).state_dict()
    load.cache_clear()
    torch.manual_seed(9)
    assert same(load(name, size, RANDOM).state_dict(), first)
    assert weights_file(name, RANDOM) == fingerprint(RANDOM) == "random"


def test_vit_nano_takes_its_own_size_alone():
    with pytest.raises(ConfigError, match=r"^`image_size = 16` must hold for vit_nano, but got image_size=32$"):
        create("vit_nano", 32)


@pytest.mark.slow  # a process of its own, as the hub client reads its environment once
@pytest.mark.parametrize(
    ("name", "file"),
    [
        (TINY, "get model.safetensors of timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        (SWIN, "get model.safetensors of timm/swinv2_tiny_window8_256.ms_in1k"),
        (CLIP, "get open_clip_model.safetensors of laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        (OPENAI, "open_clip_config.json beside it, of timm/vit_base_patch32_clip_224.openai"),
    ],
)
def test_without_the_hub_one_line_says_what_to_do(name, file):
    code = f"""
from trainables.models.create import BACKBONES, load
from trainables.config import ConfigError
try:
    load({name!r}, BACKBONES[{name!r}].image_size, None)
except ConfigError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(60), env=environment
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"the weights of {name} could not be downloaded (") and f"{file} from the Hugging" in line
    assert line.endswith("on another machine and pass it as `weights`, or start from random `weights`")


def test_training_a_fresh_model_never_changes_the_pristine_one(nano_file, nano_state):
    for method, targets in (("fft", "qkv"), ("lora", "qv")):
        config = TrainConfig(method=method, targets=targets)
        model = adapt(fresh_model(config, CLASSES, nano_file), config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
    pristine = load("vit_nano", 16, nano_file)
    assert same(pristine.state_dict(), nano_state)
    assert all(p.requires_grad for p in pristine.parameters()) and not pristine.training


def test_the_seed_alone_decides_the_head(nano_file):
    heads = [fresh_model(TrainConfig(seed=seed), CLASSES, nano_file).head for seed in (0, 0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0].weight.shape == (10, 64) and not heads[0].bias.any()
    assert 0.015 < heads[0].weight.std() < 0.025


def test_loading_leaves_the_callers_random_stream_alone(nano_file):
    for state in ("cold", "cached"):
        torch.manual_seed(4)
        expected = torch.rand(3)
        torch.manual_seed(4)
        fresh_model(TrainConfig(), CLASSES, nano_file)
        assert torch.equal(torch.rand(3), expected), state


def test_the_demo_backbone_needs_no_file_from_the_user():
    assert "blocks.2.attn.qkv.weight" in load("vit_nano", 16, None).state_dict()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_patch_is_that_of_the_network(name):
    with torch.device("meta"):
        assert create(name, BACKBONES[name].image_size).patch_embed.patch_size == (BACKBONES[name].patch,) * 2


@pytest.mark.parametrize("name", BACKBONES)
def test_normalisation_is_that_of_the_pretrained_weights(name):
    row = BACKBONES[name]
    if row.arch:
        published = timm.get_pretrained_cfg(row.arch if row.clip else f"{row.arch}.{row.tag}", allow_unregistered=False)
        assert (published.mean, published.std) == (row.mean, row.std)
        assert published.input_size == (3, row.image_size, row.image_size)
    else:
        assert row.mean == row.std == (0.5, 0.5, 0.5)


def test_a_swins_position_bias_knows_the_windows_that_it_was_trained_with():
    """Its coordinates are relative to the trained window: timm would take those of the new one, another bias."""
    for size in (128, 256):
        stages = create("swinv2_t", size).layers
        trained = [stage.blocks[0].attn.pretrained_window_size for stage in stages]
        assert trained == [(8, 8)] * 4
        table = stages[0].blocks[0].attn.relative_coords_table
        furthest = (stages[0].blocks[0].attn.window_size[0] - 1) / (8 - 1) * 8
        assert table.max() == pytest.approx(math.log2(furthest + 1) / math.log2(8))
