"""Both CLIPs compute what open_clip does, and each refuses the weights of the other."""

import json
from functools import lru_cache
from pathlib import Path

import open_clip
import pytest
import torch

from tests.weights import refusal, saved
from trainables.models.backbones import RANDOM
from trainables.models.create import BACKBONES, load

CLIP, OPENAI = "clip_b32", "clip_b32_openai"

pytestmark = pytest.mark.usefixtures("no_loaded_model")


@lru_cache(maxsize=2)
def their_clip(name: str):
    """open_clip's own model of both towers with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model(BACKBONES[name].clip, pretrained=None).eval()


def openai_layout(state: dict) -> dict:
    """As OpenAI's file has it: half precision, and three numbers that only it carries."""
    markers = {
        k: torch.tensor(v) for k, v in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408))
    }
    return {k: v.half() for k, v in state.items()} | markers


def beside(folder: Path, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", [CLIP, OPENAI])
def test_open_clips_model_gives_the_same_features_here(tmp_path, name):
    theirs = their_clip(name)
    beside(tmp_path, "open_clip_config.json", {"model_cfg": {"quick_gelu": name == OPENAI}})
    ours = load(name, 224, saved(theirs.state_dict(), tmp_path / "clip.safetensors"))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.encode_image(images)
        torch.testing.assert_close(ours(images) @ theirs.visual.proj, expected, rtol=0, atol=1e-5)
        other = load(OPENAI if name == CLIP else CLIP, 224, RANDOM)
        other.load_state_dict(ours.state_dict())
        assert (other(images) @ theirs.visual.proj - expected).abs().max() > 1e-3  # the activation is not a detail
    assert expected.abs().mean() > 0.1


def test_openais_weights_are_taken_by_their_own_backbone_alone(tmp_path):
    path = saved(openai_layout(their_clip(OPENAI).state_dict()), tmp_path / "w.pt")
    assert load(OPENAI, 32, path).patch_embed.proj.weight.dtype == torch.float32
    message = refusal(CLIP, 32, path)
    assert "are OpenAI's" in message and "they hold context_length" in message and "clip_b32_openai" in message


def test_a_file_beside_the_weights_may_say_that_they_are_openais(tmp_path):
    path = saved({"visual.proj": torch.zeros(2)}, tmp_path / "w.safetensors")  # the sign is looked for first
    message = refusal(OPENAI, 32, path)
    assert "show no sign that they are OpenAI's" in message and message.endswith("or take backbone=clip_b32")
    for name, content in (
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}),
        ("config.json", {"architecture": "vit_base_patch32_clip_quickgelu_224"}),
    ):
        beside(tmp_path, name, content)
        assert "do not fit" in refusal(OPENAI, 32, path)
        assert f"{name} beside them says quick" in refusal(CLIP, 32, path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("content", ["[1]", "no json", '{"model_cfg": 3, "architecture": null}'])
def test_whatever_else_lies_beside_the_weights_is_no_sign(tmp_path, content):
    for name in ("open_clip_config.json", "config.json"):
        (tmp_path / name).write_text(content)
    path = saved({"visual.proj": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert "do not fit" in refusal(CLIP, 32, path) and "show no sign" in refusal(OPENAI, 32, path)


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.clip])
def test_open_clip_agrees_on_tag_and_activation(name):
    row = BACKBONES[name]
    published = open_clip.get_pretrained_cfg(row.clip, row.tag)
    assert bool(published.get("quick_gelu")) == row.quick_gelu
    assert bool(open_clip.get_model_config(row.clip).get("quick_gelu")) == row.quick_gelu
    assert (tuple(published["mean"]), tuple(published["std"])) == (row.mean, row.std)
