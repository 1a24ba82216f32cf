"""Weights that fit are read as they are; weights that do not, or that would run code, are refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from tests.processes import patience
from tests.weights import refusal, same, saved
from trainables.models.backbones import RANDOM, fingerprint
from trainables.models.create import create, load
from trainables.models.vit_nano import vit_nano

TINY, OPENAI, SWIN = "vit_tiny", "clip_b32_openai", "swinv2_t"

pytestmark = pytest.mark.usefixtures("no_loaded_model")


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
    assert "do not fit vit_tiny:" in message and "has shape (384, 3, 16, 16)" in message


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


class Program(torch.nn.Module):
    """What OpenAI publishes: a scripted module, whose buffers hold the three numbers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_torchscript_archive_is_recognised_and_the_line_converts_it(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(Program()).save(str(path))
    message = refusal(OPENAI, 32, path)
    _, _, code = message.partition("convert it once with ")
    assert "is a TorchScript program" in message and str(path) in code
    subprocess.run([sys.executable, "-c", f"import torch; {code}"], cwd=tmp_path, check=True, timeout=patience(60))
    message = refusal(OPENAI, 32, tmp_path / "weights.pt")
    assert "do not fit clip_b32_openai: cls_token is missing" in message  # so it was read, and known to be OpenAI's


def test_a_fingerprint_is_the_files_sha256(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert fingerprint(tmp_path / "w").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert fingerprint(None) == "" and fingerprint(RANDOM) == "random"


def test_microsofts_layout_of_a_swin_is_read(tmp_path):
    """It puts the downsampling at the end of a stage, timm at the start of the next, and it keeps derived tables."""
    state = create(SWIN, 64).state_dict()
    theirs = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4), "head.weight": torch.zeros(9, 768)}
    for name, tensor in state.items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        theirs[".".join(parts)] = tensor
    assert same(load(SWIN, 64, saved({"model": theirs}, tmp_path / "w.pth")).state_dict(), state)
