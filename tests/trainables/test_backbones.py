"""Weights that fit are loaded as they are, weights that do not are refused in one line, and the cache stays clean."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import resample_abs_pos_embed

from trainables.adapters import adapt
from trainables.backbones import BACKBONES, create, fingerprint, fresh_model, load
from trainables.config import ConfigError, TrainConfig
from trainables.nano import vit_nano

TINY, CLIP = "vit_tiny_patch16_224", "vit_base_patch32_clip_224"


@pytest.fixture(autouse=True)
def empty_cache():
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def nano_state():
    return vit_nano().state_dict()


@pytest.fixture
def nano_file(tmp_path, nano_state) -> str:
    return saved(nano_state, tmp_path / "nano.safetensors")


def saved(state: dict, path: Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def refusal(name: str, size: int, path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(name, size, str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_torch_files_are_read_bare_or_wrapped(tmp_path, nano_state, wrap):
    assert same(load("vit_nano", 16, saved(wrap(nano_state), tmp_path / "w.pt")).state_dict(), nano_state)


def test_a_head_and_the_prefix_of_parallel_training_are_dropped(tmp_path, nano_state):
    state = {f"module.{k}": v for k, v in vit_nano(num_classes=7).state_dict().items()}
    model = load("vit_nano", 16, saved(state, tmp_path / "w.safetensors"))
    assert same(model.state_dict(), {k[7:]: v for k, v in state.items() if not k.startswith("module.head.")})


def test_weights_of_another_architecture_name_the_first_misfits(tmp_path, nano_file):
    message = refusal(TINY, 32, nano_file)
    assert message.endswith("patch_embed.proj.weight has shape (64, 3, 4, 4), expected (192, 3, 16, 16)")
    small = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32).state_dict()
    message = refusal(TINY, 32, saved(small, tmp_path / "small.safetensors"))
    assert "do not fit vit_tiny_patch16_224" in message and "has shape (384, 3, 16, 16)" in message


def test_missing_and_unknown_tensors_are_named_and_counted(tmp_path, nano_state):
    state = {"extra.weight": torch.zeros(1), **{k: v for k, v in nano_state.items() if not k.startswith("blocks.2.")}}
    message = refusal("vit_nano", 16, saved(state, tmp_path / "w.safetensors"))
    assert "blocks.2.norm1.weight is missing; blocks.2.norm1.bias is missing" in message
    assert message.endswith("; and 10 more")  # 12 tensors of a block are missing, 1 is unknown, 3 are named


@pytest.mark.parametrize("prefix", ["", "module."])
def test_another_patch_size_is_refused_and_never_resampled(tmp_path, prefix):
    other = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8).state_dict()
    path = saved({prefix + k: v for k, v in other.items()}, tmp_path / "w.safetensors")
    assert refusal(TINY, 32, path).endswith("has shape (192, 3, 8, 8), expected (192, 3, 16, 16)")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 64 + b[64:]])
def test_damaged_files_are_called_corrupt(tmp_path, nano_state, name, damage):
    path = Path(saved(nano_state, tmp_path / name))
    path.write_bytes(damage(path.read_bytes()))
    assert f"{name} is corrupt or no weights file" in refusal("vit_nano", 16, path)


class Bomb:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('exploded').touch()",))


def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "bomb.pt")
    assert "bomb.pt is corrupt or no weights file" in refusal("vit_nano", 16, "bomb.pt")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {1: torch.zeros(2)}, torch.zeros(3), {"state_dict": 5}])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    assert "must hold a dictionary of named tensors" in refusal("vit_nano", 16, tmp_path / "w.pt")


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    from trainables.backbones import weights_file

    with pytest.raises(ConfigError, match=r"^--weights must be a file, but .*none\.pt does not exist$"):
        weights_file("vit_nano", tmp_path / "none.pt")


def test_openais_weights_are_refused_by_their_own_reason(tmp_path):
    state = {"input_resolution": torch.tensor(224), "visual.class_embedding": torch.zeros(768)}
    assert "are OpenAI's, whose quickgelu activation" in refusal(CLIP, 224, saved(state, tmp_path / "w.pt"))


def test_an_open_clip_model_gives_the_same_features_here(tmp_path):
    import open_clip

    theirs = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    ours = load(CLIP, 224, saved(theirs.state_dict(), tmp_path / "clip.pt"))
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.encode_image(images)
        torch.testing.assert_close(ours(images) @ theirs.visual.proj, expected, rtol=0, atol=1e-4)
    assert expected.abs().mean() > 0.1


def test_position_embeddings_are_resampled_to_the_image(tmp_path):
    state = timm.create_model(TINY, num_classes=0, img_size=64).state_dict()
    model = load(TINY, 96, saved(state, tmp_path / "w.safetensors"))
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, expected) and expected.shape == (1, 37, 192)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token's stays
    assert torch.equal(model.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize(("name", "size"), [(TINY, 100), (TINY, 8), (CLIP, 48)])
def test_an_image_that_the_patches_do_not_tile_is_refused(name, size):
    with pytest.raises(ConfigError, match=rf"^`image_size` must be a multiple of {name}'s patch of .* but got {size}$"):
        create(name, size)


def test_vit_nano_takes_its_own_size_alone():
    with pytest.raises(ConfigError, match=r"^`image_size = 16` must hold for vit_nano, but got image_size=32$"):
        create("vit_nano", 32)


@pytest.mark.slow  # a process of its own, as the hub client reads its environment once
def test_without_the_hub_one_line_says_what_to_do():
    code = f"""
from trainables.backbones import load
from trainables.config import ConfigError
try:
    load({TINY!r}, 224, None)
except ConfigError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    (line,) = done.stdout.splitlines()
    assert line.startswith("the weights of vit_tiny_patch16_224 could not be downloaded (")
    assert line.endswith("vit_tiny_patch16_224.augreg_in21k_ft_in1k from the Hugging Face hub on another machine "
                         "and pass it with --weights FILE")  # fmt: skip


def test_training_a_fresh_model_never_changes_the_pristine_one(nano_file, nano_state):
    for method, targets in (("fft", "qkv"), ("lora", "qv")):
        config = TrainConfig(method=method, targets=targets)
        model = adapt(fresh_model(config, 10, nano_file), config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
    pristine = load("vit_nano", 16, nano_file)
    assert same(pristine.state_dict(), nano_state)
    assert all(p.requires_grad for p in pristine.parameters()) and not pristine.training


def test_the_seed_alone_decides_the_head(nano_file):
    heads = [fresh_model(TrainConfig(seed=seed), 10, nano_file).head for seed in (0, 0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0].weight.shape == (10, 64) and not heads[0].bias.any()
    assert 0.015 < heads[0].weight.std() < 0.025


def test_loading_leaves_the_callers_random_stream_alone(nano_file):
    for state in ("cold", "cached"):
        torch.manual_seed(4)
        expected = torch.rand(3)
        torch.manual_seed(4)
        fresh_model(TrainConfig(), 10, nano_file)
        assert torch.equal(torch.rand(3), expected), state


def test_the_demo_backbone_needs_no_file_from_the_user():
    assert "blocks.2.attn.qkv.weight" in load("vit_nano", 16, None).state_dict()


def test_a_fingerprint_is_the_files_sha256(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert fingerprint(tmp_path / "w").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert fingerprint(None) == ""


@pytest.mark.parametrize("name", BACKBONES)
def test_normalisation_is_that_of_the_pretrained_weights(name):
    row = BACKBONES[name]
    if row.tag:
        published = timm.create_model(f"{name}.{row.tag}", num_classes=0).pretrained_cfg
        assert (published["mean"], published["std"]) == (row.mean, row.std)
        assert published["input_size"] == (3, row.image_size, row.image_size)
    else:
        assert row.mean == row.std == (0.5, 0.5, 0.5)
