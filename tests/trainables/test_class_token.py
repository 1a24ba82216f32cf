"""The last block for the class token alone: the same outputs and gradients, or nothing is changed."""

import copy
from functools import cache

import pytest
import torch
from timm.layers import SwiGLU
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn
from torch.nn import functional as F

from trainables.config import TrainConfig
from trainables.models import zeroshot
from trainables.models.adapters import adapt, check_adapters
from trainables.models.backbones import RANDOM
from trainables.models.class_token import ClassTokenBlock, read_last_row
from trainables.models.create import fresh_model, load
from trainables.training.fit import TrainStep
from trainables.training.micro_batches import MicroBatchStep
from trainables.training.penalty import TrainingLoss

CLASSES = tuple("0123456789")
SIZES = {"vit_nano": 16, "vit_tiny": 32, "dino_b16": 32, "clip_b32": 64, "clip_b32_openai": 64}
ZEROSHOT = "clip_b32_openai"  # with a zero-shot head, which computes in float32 whatever it gets
ADAPTED = {
    "fft": {"method": "fft"},
    "rank 0": {"rank": 0},
    "qkv": {"targets": "qkv"},
    "qv": {"targets": "qv"},
    "qkv+proj": {"targets": "qkv+proj"},
    "all": {"targets": "all"},
    "last block": {"targets": "all", "last_blocks": 1},
    "qkv, dropout": {"targets": "qkv", "dropout": 0.3},
    "qv, dropout": {"targets": "qv", "dropout": 0.3},
}
EVERYWHERE = ("fft", "qv, dropout", "all")  # of the large backbones
CASES = [
    (name, how, dtype)
    for name in SIZES
    for how in (ADAPTED if name in ("vit_nano", "vit_tiny") else EVERYWHERE)
    for dtype in (torch.float32, torch.float64)
    if (name, dtype) != (ZEROSHOT, torch.float64)
]
# Of logits and of gradients. In float32 a gradient is up to 6e-6 from its value in float64, in timm's block as in ours.
TOLERANCES = {torch.float32: (1e-6, 5e-6), torch.float64: (1e-12, 1e-12)}


@cache
def pristine(name: str) -> nn.Module:
    """The backbone with ten classes, its last two blocks alone where it has twelve."""
    config = TrainConfig(backbone=name, image_size=SIZES[name])
    model = fresh_model(config, CLASSES, None if name == "vit_nano" else RANDOM)
    load.cache_clear()
    if len(model.blocks) == 12:
        model.blocks = nn.Sequential(*model.blocks[-2:])
    if name == ZEROSHOT:
        generator = torch.Generator().manual_seed(2)
        projection, rows = (torch.randn(512, n, generator=generator) / 512**0.5 for n in (768, 10))
        zeroshot.attach(model, {"projection": projection, "weight": rows.T, "scale": torch.tensor(20.0)})
    return model


def adapted(name: str, **values) -> nn.Module:
    """In training mode, the adapters not zero."""
    model = adapt(copy.deepcopy(pristine(name)), TrainConfig(**{"rank": 4} | values))
    return awake(model).train()


def awake(model: nn.Module, noise: float = 0.05) -> nn.Module:
    """Noise on all that trains: fresh adapters and biases are zero, and attention is the same for every token."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(noise * torch.randn(p.shape, generator=generator))
    return model


def images(model: nn.Module, n: int = 6) -> torch.Tensor:
    p = next(model.parameters())
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, *model.patch_embed.img_size, generator=generator).to(p.dtype)


def outcome(model: nn.Module, **options) -> dict[str, torch.Tensor]:
    """Logits, every gradient and the random stream's position behind one pass."""
    x = images(model)
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        logits = model(x, **options)
        F.cross_entropy(logits.flatten(1) * 3, torch.arange(len(x))).backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        return found | {"logits": logits.detach(), "stream": torch.rand(3)}


def require_same(found: dict, expected: dict, tolerance: float) -> None:
    """Each tensor to ``tolerance`` of its largest entry (a key's shift has no gradient but rounding, hence 1e-15)."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max().item() <= tolerance * value.abs().max().item() + 1e-15, name


def pair(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model as it is, and a copy that reads its last row."""
    changed = copy.deepcopy(model)
    assert read_last_row(changed)
    assert changed.forward_features(images(changed)).shape[1] == 1  # it does compute one row alone
    return model, changed


@pytest.mark.parametrize(("name", "how", "dtype"), CASES)
def test_outputs_and_gradients_are_those_of_the_whole_block(name, how, dtype):
    plain, changed = pair(adapted(name, **ADAPTED[how]).to(dtype))
    expected, found = outcome(plain), outcome(changed)
    assert all(value.any() for value in expected.values())
    for_logits, for_gradients = TOLERANCES[dtype]
    require_same({"logits": found.pop("logits")}, {"logits": expected.pop("logits")}, for_logits)
    require_same(found, expected, for_gradients)
    with torch.inference_mode():
        whole, row = (model.eval()(images(model)) for model in (plain, changed))
    require_same({"logits": row}, {"logits": whole}, for_logits)


OPTIONS = {
    "registers": {"reg_tokens": 4},
    "layer scale and drop path": {"init_values": 0.1, "drop_path_rate": 0.5},
    "norms of query and key": {"qk_norm": True},
    "norms within": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no bias": {"qkv_bias": False, "proj_bias": False},
    "positions without class": {"no_embed_class": True},
    "dropout before and behind the blocks": {"pos_drop_rate": 0.2, "patch_drop_rate": 0.3, "drop_rate": 0.2},
    "norm behind pooling": {"fc_norm": True},
}
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_classes": 10, "depth": 3, "num_heads": 3}


def vit(**options) -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return awake(VisionTransformer(**SMALL, **options), noise=0.2)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_timms_options_that_concern_each_token_alone_are_kept(options):
    plain, changed = pair(vit(**options).double().train())
    require_same(outcome(changed), outcome(plain), 1e-12)


def test_recomputed_activations_are_the_same():
    plain, changed = pair(vit().double().train())
    changed.set_grad_checkpointing()
    require_same(outcome(changed), outcome(plain), 1e-12)


@pytest.mark.parametrize("shape", [(17, 17), (1, 17), (6, 1, 17, 17)])
def test_masks_are_obeyed(shape):
    plain, changed = pair(vit().double().train())
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[..., 0] = True  # no token without any key
    expected = outcome(plain, attn_mask=mask)
    require_same(outcome(changed, attn_mask=mask), expected, 1e-12)
    assert not torch.allclose(expected["logits"], plain(images(plain)))


def test_a_causal_mask_is_obeyed():
    plain, changed = pair(vit().double().train())
    require_same(outcome(changed, is_causal=True), outcome(plain, is_causal=True), 1e-12)


@pytest.mark.parametrize("how", ["fft", "qv, dropout", "all"])
def test_in_half_precision_it_is_the_same_but_for_half_precisions_rounding(how):
    plain, changed = pair(adapted("vit_nano", **ADAPTED[how]))
    exact = outcome(plain)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, found = outcome(plain), outcome(changed)
    assert found["logits"].dtype == rounded["logits"].dtype
    scale = exact["logits"].abs().max()
    assert (found["logits"] - rounded["logits"]).abs().max() <= 0.02 * scale
    for name, value in exact.items():  # no further from the truth than the plain model is
        ours, theirs = ((other[name] - value).norm() / value.norm() for other in (found, rounded))
        assert ours <= 1.5 * theirs + 1e-3, name


TRAINED = [
    {"method": "fft", "lr": 1e-3},
    {"method": "fairlora", "lr": 1e-2, "dropout": 0.2, "micro_batch": 8},
    {"method": "fairlora", "lr": 3e-3, "targets": "all", "penalty_center": "running", "lam": 0.1},
]


@pytest.mark.parametrize("values", TRAINED, ids=["fft", "micro-batches", "running means"])
def test_training_takes_the_same_course(values):
    config = TrainConfig(**{"rank": 4} | values)
    model = adapt(copy.deepcopy(pristine("vit_nano")), config)
    plain, changed = (course(one, config) for one in pair(model))
    # 20 steps of gradients that are up to 5e-6 off, see TOLERANCES; a thousand times as much is a course to compare.
    torch.testing.assert_close(changed, plain, rtol=1e-4, atol=0)
    assert abs(plain[-1] - plain[0]) > 0.1 * plain[0]


def course(model: nn.Module, config: TrainConfig, steps: int = 20) -> torch.Tensor:
    """The objective of every step."""
    plain = TrainStep(model.train(), config, TrainingLoss(config, len(CLASSES), 2, "cpu"), model)
    step = MicroBatchStep(plain, config.micro_batch if config.accumulates else None)
    label, totals = torch.arange(30) % 10, []
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for _ in range(steps):
            totals.append(step((images(model, 30), label, label % 2), lambda: False)[0])
    return torch.stack(totals)


@pytest.mark.parametrize("how", ADAPTED)
def test_weights_names_and_mode_stay(how):
    model = adapted("vit_nano", **ADAPTED[how])
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    state, modules = list(model.state_dict()), [(name, id(m), m.training) for name, m in model.named_modules()]
    assert read_last_row(model)
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before
    assert list(model.state_dict()) == state
    assert [(name, id(m), m.training) for name, m in model.named_modules()] == modules
    adapted("vit_nano", **ADAPTED[how]).load_state_dict(model.state_dict(), strict=True)
    check_adapters(model)


def test_a_copy_is_independent_and_reads_one_row_too():
    model = adapted("vit_nano")
    assert read_last_row(model)
    duplicate, before = copy.deepcopy(model), outcome(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    require_same(outcome(duplicate), before, 0.0)
    assert isinstance(duplicate.blocks[-1], ClassTokenBlock) and duplicate.forward_features(images(model)).shape[1] == 1


def test_twice_is_as_once():
    model = adapted("vit_nano")
    assert read_last_row(model)
    types, before = [type(m) for m in model.modules()], outcome(model)
    assert read_last_row(model)
    assert [type(m) for m in model.modules()] == types
    require_same(outcome(model), before, 0.0)


def test_other_blocks_and_other_models_keep_their_classes():
    other, model = adapted("vit_nano"), adapted("vit_nano")
    assert read_last_row(model)
    assert [isinstance(block, ClassTokenBlock) for block in model.blocks] == [False, False, True]
    assert not any(isinstance(block, ClassTokenBlock) for block in other.blocks)


def unfused() -> VisionTransformer:
    model = vit()
    model.blocks[-1].attn.fused_attn = False
    return model


def pooled_all_the_same() -> VisionTransformer:
    model = vit(global_pool="map")
    model.global_pool = "token"  # timm's pooling layer goes before the name
    return model


def gated() -> VisionTransformer:
    model = vit()
    model.blocks[-1].attn.gate = nn.Linear(48, 48)
    return model


def normalised_together() -> VisionTransformer:
    model = vit()
    model.norm = nn.Sequential(nn.Flatten(), nn.LayerNorm(17 * 48), nn.Unflatten(1, (17, 48)))
    return model


REFUSED = {
    "swinv2": lambda: SwinTransformerV2(
        img_size=32, patch_size=4, embed_dim=24, depths=(1, 2), num_heads=(2, 3), window_size=4, num_classes=10
    ),
    "beit": lambda: Beit(**SMALL),
    "eva": lambda: Eva(**SMALL),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    **{f"pool {pool!r}": lambda pool=pool: vit(global_pool=pool) for pool in ("avg", "avgmax", "max", "map", "prr")},
    "pooling layer": pooled_all_the_same,
    "no pool": lambda: vit(global_pool=""),
    "post norm": lambda: vit(block_fn=ResPostBlock),
    "parallel": lambda: vit(block_fn=ParallelScalingBlock),
    "differential attention": lambda: vit(attn_layer="diff"),
    "gated mlp": lambda: vit(mlp_layer=SwiGLU),
    "another norm": lambda: vit(norm_layer="rmsnorm"),
    "norm over tokens": normalised_together,
    "dropout": lambda: vit(proj_drop_rate=0.1),
    "attention dropout": lambda: vit(attn_drop_rate=0.1),
    "attention without the fused kernel": unfused,
    "gated attention": gated,
    "adapters' dropout on proj": lambda: adapted("vit_nano", targets="qkv+proj", dropout=0.1),
    "adapters' dropout on all": lambda: adapted("vit_nano", targets="all", dropout=0.1),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_cannot_read_one_row_is_left_as_it_was(make):
    model = make().train()
    types, before = [type(m) for m in model.modules()], outcome(model)
    assert read_last_row(model) is False
    assert [type(m) for m in model.modules()] == types
    found = outcome(model)
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_dropout_in_the_blocks_before_is_none_of_its_business():
    model = adapted("vit_nano", targets="all", dropout=0.3)
    model.blocks[-1] = adapted("vit_nano", targets="all").blocks[-1]
    plain, changed = pair(model.double())
    require_same(outcome(changed), outcome(plain), 1e-12)
