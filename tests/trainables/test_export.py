"""An export gives the trial's logits again: through load.py, through peft, and, merged, through plain timm."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from peft import PeftModel
from PIL import Image

from tests.processes import patience
from tests.test_layers import BLOCK
from tests.weights import saved
from trainables.config import TrainConfig
from trainables.export import load, write
from trainables.export.predict import open_model
from trainables.models import zeroshot
from trainables.models.adapters import SplitQKV, adapt
from trainables.models.backbones import RANDOM
from trainables.models.create import BACKBONES, create, fresh_model, nano_file, weights_file
from trainables.models.create import load as created
from trainables.prepare import decode

CLASSES = ["<script>alert(1)</script>", "=cmd()", "cat"]
HOW = {"banner": 0, "sizes": [16]}
NANO, TINY = {}, {"backbone": "vit_tiny", "image_size": 32}
SWIN, CLIP = {"backbone": "swinv2_t", "image_size": 64}, {"backbone": "clip_b32", "image_size": 32}
ZEROSHOT = {**CLIP, "head": "zeroshot"}
ROUNDING = 1e-5  # of logits of about 1: load.py, peft and timm have code of their own, whose sums may round otherwise


@pytest.fixture(scope="module", autouse=True)
def own_texts(tmp_path_factory):
    """Class names' embeddings are kept, but apart from those of other runs."""
    weights_file("vit_nano", None)  # into the cache that lasts
    nano = nano_file()
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        (cache / nano.name).symlink_to(nano)
        patch.setenv("TUNE_FAIRLORA_CACHE", str(cache))
        zeroshot.parts.cache_clear()
        yield
        zeroshot.parts.cache_clear()
        created.cache_clear()


def trained(config: TrainConfig, weights: str | None):
    """As training leaves a model: whatever it trains has moved."""
    model, generator = adapt(fresh_model(config, CLASSES, weights), config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def exported(folder: Path, config: TrainConfig, weights: str | None = None, merge: bool = False):
    """The model, and by how much the export's logits differ from its own at most."""
    folder.mkdir(exist_ok=True)
    model = trained(config, weights)
    how = {"banner": 0, "sizes": [config.image_size]}
    return model, write.write(folder, model, config, CLASSES, weights, how, {"groups": ["a", "b"]}, merge)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"load.py", "model.json"}


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        (NANO, None),
        ({**NANO, "method": "fairlora", "rank": 4, "alpha": 24.0, "dropout": 0.5}, None),
        ({**NANO, "targets": "qv"}, None),
        ({**NANO, "rank": 2, "alpha_mode": "2r"}, None),
        ({**NANO, "rank": 4, "alpha": 24.0, "alpha_mode": "rslora"}, None),
        ({**NANO, "rank": 3, "targets": "qv", "alpha_mode": "rslora"}, None),
        ({**NANO, "targets": "all", "last_blocks": 1}, None),
        ({**NANO, "rank": 0}, None),
        ({**TINY, "targets": "qkv+proj"}, RANDOM),
        pytest.param(ZEROSHOT, RANDOM, marks=pytest.mark.slow),
        pytest.param(SWIN, RANDOM, marks=pytest.mark.slow),
        pytest.param({**SWIN, "targets": "qv"}, RANDOM, marks=pytest.mark.slow),
        pytest.param({**CLIP, "targets": "qv"}, RANDOM, marks=pytest.mark.slow),
    ],
)
def test_an_adapter_gives_the_trials_logits_through_load_and_through_peft(tmp_path, values, weights):
    config = TrainConfig(**values)
    model, difference = exported(tmp_path, config, weights)
    assert difference <= ROUNDING
    adapter = PeftModel.from_pretrained(load.base(tmp_path), tmp_path).eval()
    assert write.difference(model, adapter, config) <= ROUNDING
    assert write.difference(model, load.base(tmp_path), config) > 100 * ROUNDING  # the adapter matters
    assert names(tmp_path) == {"adapter_config.json", "adapter_model.safetensors", "base.safetensors"}
    made = json.loads((tmp_path / "adapter_config.json").read_text())
    if config.adapts:
        scale = made["lora_alpha"] / (made["r"] ** 0.5 if made["use_rslora"] else made["r"])
        assert scale == pytest.approx(config.lora_scale, rel=1e-12)
        assert made["use_rslora"] == (config.alpha_mode == "rslora")
    assert made["lora_dropout"] == config.dropout and made["peft_type"] == "LORA" and "head" in made["modules_to_save"]


@pytest.mark.parametrize(
    ("values", "weights", "merge"),
    [
        (NANO, None, True),
        ({**NANO, "targets": "qv"}, None, True),
        ({**NANO, "rank": 4, "alpha_mode": "2r"}, None, True),
        ({**NANO, "rank": 4, "targets": "qv", "alpha_mode": "rslora"}, None, True),
        ({**NANO, "method": "fairfft"}, None, False),
        (SWIN, RANDOM, True),
        pytest.param({**TINY, "targets": "all"}, RANDOM, True, marks=pytest.mark.slow),
        pytest.param({**SWIN, "method": "fft"}, RANDOM, False, marks=pytest.mark.slow),
    ],
)
def test_whole_weights_load_into_plain_timm_strictly(tmp_path, values, weights, merge):
    config = TrainConfig(**values)
    model, difference = exported(tmp_path, config, weights, merge)
    assert difference <= ROUNDING and names(tmp_path) == {"model.safetensors"}
    architecture = load.read_facts(tmp_path)["architecture"]
    plain = timm.create_model(architecture["name"], num_classes=3, **architecture["options"]).eval()
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"), strict=True)
    assert write.difference(model, plain, config) <= ROUNDING


@pytest.mark.parametrize(("method", "merge"), [("lora", True), pytest.param("fft", False, marks=pytest.mark.slow)])
def test_a_zeroshot_head_needs_no_text_tower_any_more(tmp_path, method, merge):
    model, difference = exported(tmp_path, TrainConfig(**ZEROSHOT, method=method), RANDOM, merge)
    assert difference <= ROUNDING and names(tmp_path) == {"model.safetensors"}
    loaded = load.load(tmp_path)
    assert loaded.head.scale == model.head.scale == pytest.approx(1 / 0.07)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(loaded.head(features), model.head(features), rtol=0, atol=ROUNDING)
        assert (loaded.head(2 * features) - loaded.head(features)).abs().max() < ROUNDING  # normalised


def test_query_and_value_become_one_adapter_of_twice_the_rank():
    generator = torch.Generator().manual_seed(0)
    shapes = {"q.lora_A": (2, 6), "q.lora_B": (6, 2), "v.lora_A": (2, 6), "v.lora_B": (6, 2)}
    parts = {f"attn.qkv.{k}.default.weight": torch.randn(s, generator=generator) for k, s in shapes.items()}
    made = write.fused(parts)
    assert {k: tuple(v.shape) for k, v in made.items()} == {
        "attn.qkv.lora_A.weight": (4, 6),
        "attn.qkv.lora_B.weight": (18, 4),
    }
    update = (made["attn.qkv.lora_B.weight"] @ made["attn.qkv.lora_A.weight"]).split(6)
    q, v = (parts[f"attn.qkv.{p}.lora_B.default.weight"] @ parts[f"attn.qkv.{p}.lora_A.default.weight"] for p in "qv")
    torch.testing.assert_close(update[0], q, rtol=0, atol=1e-6)
    torch.testing.assert_close(update[2], v, rtol=0, atol=1e-6)
    assert not update[1].any()
    assert [name for name, _ in SplitQKV(torch.nn.Linear(6, 18)).named_children()] == list(write.FUSED)


@pytest.fixture(scope="module")
def user_file(tmp_path_factory) -> str:
    """Weights as a user passes them: timm's own file at the size of the pretraining, head included."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    return saved(state, tmp_path_factory.mktemp("weights") / "their.safetensors")


def test_a_users_file_is_named_and_only_it_is_taken(tmp_path, user_file):
    config = TrainConfig(backbone="vit_tiny", image_size=48)  # its position embeddings are resampled
    model, difference = exported(tmp_path, config, user_file)
    assert difference <= ROUNDING and names(tmp_path) == {"adapter_config.json", "adapter_model.safetensors"}
    digest = write.file_hash(user_file)
    with pytest.raises(ValueError, match=f"pass base_weights, the file their.safetensors with sha256 {digest}$"):
        load.load(tmp_path)
    other = saved(create("vit_tiny", 48).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"with sha256 {digest}, but .*other.safetensors is another file$"):
        load.load(tmp_path, other)
    with pytest.raises(ValueError, match="base weights must be a file, but /none is none"):
        load.load(tmp_path, "/none")
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=48, checkpoint_path="").eval()
    state = {k: v for k, v in safetensors.torch.load_file(user_file).items() if not k.startswith("head.")}
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, theirs), strict=False)
    alone = PeftModel.from_pretrained(theirs, tmp_path).eval()  # without load.py
    assert write.difference(model, alone, config) <= ROUNDING


def changed(folder: Path, **values) -> None:
    facts = json.loads((folder / "model.json").read_text())
    for key, value in values.items():
        target, _, name = key.rpartition("__")
        (facts[target] if target else facts)[name] = value
    (folder / "model.json").write_text(json.dumps(facts))


def test_other_weights_under_an_adapter_show_in_its_logits(tmp_path):
    exported(tmp_path, TrainConfig())
    state = safetensors.torch.load_file(tmp_path / "base.safetensors")
    state["blocks.1.mlp.fc1.weight"] *= 1.1
    saved(state, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match=r"base weights must be base\.safetensors with sha256 \w+, but"):
        load.load(tmp_path)
    changed(tmp_path, base__sha256="")
    with pytest.raises(ValueError, match="must give the logits that it was exported with, but is off by"):
        load.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture__name": "hf-hub:someone/model"}, "must name an architecture of timm's and its shapes alone"),
        ({"architecture__name": "local-dir:."}, "must name an architecture of timm's"),
        ({"architecture__name": "vit_unheard_of"}, "must name an architecture of timm's"),
        ({"architecture__options": {"pretrained": True}}, "must name an architecture of timm's"),
        ({"architecture__options": {"checkpoint_path": "x.pt"}}, "must name an architecture of timm's"),
        ({"architecture": 3}, "must be an exported model with a sound model.json, but: TypeError"),
        ({"format": 9}, "must have format 1, but has 9: take the load.py that came with it"),
        ({"architecture__zeroshot": 8}, "the weights of .* must fit its architecture, but fc_norm.weight does not"),
    ],
)
def test_a_model_json_that_was_tampered_with_reaches_neither_files_nor_the_hub(tmp_path, values, message):
    exported(tmp_path, TrainConfig(method="fft"))
    changed(tmp_path, **values)
    with pytest.raises(ValueError, match=message) as caught:
        load.load(tmp_path)
    assert "\n" not in str(caught.value)


def photographs(folder: Path) -> list[Path]:
    """Of every kind that people have: large, turned by EXIF, 16 bit, palette, transparent, grey, a long strip."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 255, (23, 31, 3), dtype=np.uint8))
    photo = rough.resize((800, 600), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "large.jpg")
    photo.resize((90, 60)).save(folder / "turned.jpg", exif=exif)
    Image.fromarray((np.arange(40 * 50).reshape(40, 50) * 30).astype(np.uint16)).save(folder / "deep.png")
    rough.quantize(16).save(folder / "palette.png")
    rough.convert("RGBA").save(folder / "clear.png")
    rough.convert("L").save(folder / "grey.png")
    photo.resize((300, 20)).save(folder / "strip.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("banner", [0, 10])
@pytest.mark.parametrize("sizes", [[16], [64, 16]])
def test_an_image_is_prepared_as_the_stores_images_were(tmp_path, banner, sizes):
    files = photographs(tmp_path)
    for file in files:
        expected = decode.decode(file, sizes[0], banner)
        for size in sizes[1:]:
            expected = decode.square(Image.fromarray(expected), size)
        with Image.open(file) as image:
            made = load.pixels(image, {"banner": banner, "sizes": sizes})
        assert made.shape == (16, 16, 3) and np.array_equal(made, expected), file.name
    assert len(files) == 7


def test_a_tensor_out_of_preprocess_is_what_the_model_takes(tmp_path):
    exported(tmp_path / "model", TrainConfig())
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(file)
    with Image.open(file) as image:
        made = load.preprocess(image, tmp_path / "model")
    expected = (torch.arange(16 * 16 * 3) % 256).reshape(16, 16, 3).permute(2, 0, 1) / 255 * 2 - 1
    assert made.shape == (3, 16, 16)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    opened = open_model(tmp_path / "model", None)
    with torch.inference_mode():
        again = load.load(tmp_path / "model")(made[None])
        torch.testing.assert_close(opened.predict([file]).logits, again, rtol=0, atol=ROUNDING)


def test_addresses_on_the_hub_are_open_clips_and_timms():
    clips = {
        "laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "openai": "timm/vit_base_patch32_clip_224.openai",
    }
    for row in BACKBONES.values():
        if row.clip:
            assert write.hub_address(row) == (clips[row.tag], "open_clip_model.safetensors")
        elif row.arch:
            published = timm.get_pretrained_cfg(f"{row.arch}.{row.tag}").hf_hub_id
            assert write.hub_address(row) == (published, "model.safetensors")


# What an export may not need: the project, and all that it brings beside torch, timm and peft.
NOT_THERE = {"trainables", "tune_fairlora", "analysis", "search_spaces", "ray", "mlflow", "optuna", "open_clip"}
NOT_THERE |= {"sklearn", "pandas", "pyarrow", "scipy", "matplotlib", "rich"}
FRESH = """
import sys, torch
sys.path.insert(0, {folder!r})
from load import base, load, preprocess
images = torch.load("images.pt", weights_only=True)
with torch.inference_mode():
    torch.save(load({weights})(images), "loaded.pt")
    if {peft}:
        from peft import PeftModel
        torch.save(PeftModel.from_pretrained(base({weights}), {folder!r}).eval()(images), "peft.pt")
assert not {blocked} & set(sys.modules)
"""


def alone(folder: Path, images: torch.Tensor, weights: str = "", peft: bool = False, **environment) -> dict:
    """Logits out of a process that has only torch, timm, safetensors, Pillow and, if asked for, peft."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    torch.save(images, elsewhere / "images.pt")
    blocked = NOT_THERE if peft else NOT_THERE | {"peft", "transformers"}
    program = BLOCK.format(blocked=blocked)
    program += FRESH.format(folder=str(folder), weights=f"base_weights={weights!r}" * bool(weights), peft=peft,
                            blocked=blocked)  # fmt: skip
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"} | environment
    how = {"capture_output": True, "text": True, "cwd": elsewhere, "env": environment, "timeout": patience(200)}
    done = subprocess.run([sys.executable, "-P", "-c", program], **how)
    assert done.returncode == 0, done.stderr
    return {name: torch.load(elsewhere / f"{name}.pt", weights_only=True) for name in ("loaded", "peft")[: 1 + peft]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "weights", "merge"),
    [
        (NANO, None, False),
        ({**NANO, "method": "fairlora", "targets": "qv"}, None, False),
        ({**NANO, "method": "fft"}, None, False),
        (SWIN, RANDOM, True),
        (SWIN, RANDOM, False),
        (ZEROSHOT, RANDOM, False),
        (ZEROSHOT, RANDOM, True),
    ],
)
def test_in_a_fresh_environment_the_logits_are_the_same(tmp_path, values, weights, merge):
    config = TrainConfig(**values)
    model, _ = exported(tmp_path / "model", config, weights, merge)
    size = config.image_size
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = model(images)
    for logits in alone(tmp_path / "model", images, peft=not merge and config.method != "fft").values():
        torch.testing.assert_close(logits, expected, rtol=0, atol=ROUNDING)


@pytest.mark.slow
def test_weights_of_the_hub_are_taken_from_there(tmp_path, user_file):
    """The hub's own client, offline, over a cache as it would have filled it."""
    snapshot = tmp_path / "hub/models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    (snapshot / "snapshots/abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs/main").write_text("abc")
    (snapshot / "snapshots/abc/model.safetensors").symlink_to(user_file)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from pathlib import Path
import torch
from tests.trainables.test_export import CLASSES, exported
from trainables.config import TrainConfig
config = TrainConfig(backbone="vit_tiny", image_size=32)
model, difference = exported(Path({str(tmp_path / "model")!r}), config, None)
torch.save(model(torch.ones(1, 3, 32, 32)).detach(), {str(tmp_path / "expected.pt")!r})
print(difference)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1",
                   "TUNE_FAIRLORA_CACHE": str(tmp_path)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=patience(200)
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= ROUNDING
    base = load.read_facts(tmp_path / "model")["base"]
    assert base["repository"] == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert base["sha256"] == write.file_hash(user_file)
    logits = alone(tmp_path / "model", torch.ones(1, 3, 32, 32), HF_HOME=str(tmp_path))["loaded"]
    torch.testing.assert_close(logits, torch.load(tmp_path / "expected.pt", weights_only=True), rtol=0, atol=ROUNDING)
    with pytest.raises(AssertionError, match=r"model.safetensors of timm/vit_tiny\S+ could not be downloaded"):
        alone(tmp_path / "model", torch.ones(1, 3, 32, 32))
