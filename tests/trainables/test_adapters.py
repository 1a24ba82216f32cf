"""Each method trains what it says, and an adapter that is out of the path is found."""

import copy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch.nn import functional as F

from trainables.config import ConfigError, TrainConfig
from trainables.models.adapters import SplitQKV, adapt, call_qkv, check_adapters, parameter_counts
from trainables.models.create import skeleton
from trainables.models.vit_nano import vit_nano

HEAD = 64 * 10 + 10  # vit_nano's, width 64, with 10 classes
TOTAL = sum(p.numel() for p in vit_nano(num_classes=10).parameters())


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vit_nano(num_classes=10).eval()


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def train_briefly(model, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images(8)), torch.arange(8)).backward()
        optimizer.step()
    model.eval()


# Adapter weights in one block of vit_nano: rank times (inputs + outputs) of each layer that is adapted.
@pytest.mark.parametrize(
    ("targets", "per_rank"),
    [("qkv", 64 + 192), ("qv", 2 * 128), ("qkv+proj", 256 + 128), ("all", 256 + 128 + (64 + 128) + (128 + 64))],
)
@pytest.mark.parametrize(("last_blocks", "blocks"), [(0, 3), (1, 1), (3, 3)])
@pytest.mark.parametrize("method", ["lora", "fairlora"])
def test_lora_trains_the_adapters_of_its_targets_and_the_head(model, method, targets, per_rank, last_blocks, blocks):
    config = TrainConfig(method=method, rank=4, targets=targets, last_blocks=last_blocks)
    adapt(model, config)
    assert parameter_counts(model)[0] == HEAD + 4 * per_rank * blocks
    names = trained(model) - {"head.weight", "head.bias"}
    assert all("lora_" in name for name in names)
    assert {name.split(".")[1] for name in names} == {str(i) for i in range(3 - blocks, 3)}


@pytest.mark.parametrize("method", ["fft", "fairfft"])
def test_full_fine_tuning_trains_every_weight(model, method):
    before = [name for name, _ in model.named_parameters()]
    adapt(model.requires_grad_(False), TrainConfig(method=method))
    assert trained(model) == set(before)
    assert parameter_counts(model) == (TOTAL, TOTAL)


@pytest.mark.parametrize("targets", ["qkv", "qv"])
def test_rank_0_trains_the_head_alone(model, targets):
    adapt(model, TrainConfig(rank=0, targets=targets))
    assert trained(model) == {"head.weight", "head.bias"}
    assert parameter_counts(model) == (HEAD, TOTAL + HEAD)
    check_adapters(model)


@pytest.mark.parametrize("targets", ["qkv", "qv"])
@pytest.mark.parametrize(
    ("rank", "classes", "trainable"),
    [(8, 40, 325_672), (16, 100, 666_724), (32, 100, 1_256_548), (64, 100, 2_436_196), (128, 100, 4_795_492)],
)
def test_the_counts_are_those_of_the_papers_table_5(targets, rank, classes, trainable):
    config = TrainConfig(backbone="dino_b16", image_size=224, rank=rank, targets=targets)
    with torch.device("meta"):
        dino = adapt(skeleton(config, classes), config)
    counts = parameter_counts(dino)
    assert counts[0] == trainable
    if rank == 8:  # the totals of its other rows are a slip of the paper
        assert counts[1] == 86_155_088


@pytest.mark.parametrize(("last_blocks", "first"), [(0, 0), (6, 6), (1, 11)])
def test_a_block_is_not_mistaken_for_another_whose_number_ends_alike(last_blocks, first):
    config = TrainConfig(backbone="dino_b16", image_size=224, targets="all", last_blocks=last_blocks)
    with torch.device("meta"):  # 12 blocks: `blocks.1` is the end of `blocks.11`, and peft matches endings
        dino = adapt(skeleton(config, 2), config)
    layers = {name.split(".lora_")[0] for name in trained(dino) if "lora_" in name}
    inner = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert layers == {f"blocks.{i}.{name}" for i in range(first, 12) for name in inner}


@pytest.mark.parametrize("bias", [True, False])
def test_a_split_layer_computes_what_the_fused_one_did(bias):
    fused = torch.nn.Linear(64, 192, bias=bias)
    x = torch.randn(2, 17, 64)
    torch.testing.assert_close(SplitQKV(fused)(x), fused(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("targets", ["qkv", "qv", "qkv+proj", "all"])
def test_adapters_start_as_the_identity_and_then_learn(model, targets):
    before = model(images()).detach()
    adapt(model, TrainConfig(targets=targets))
    check_adapters(model)
    torch.testing.assert_close(model.eval()(images()), before, rtol=0, atol=1e-5)
    head = copy.deepcopy(model.head)
    train_briefly(model)
    model.head = head
    assert (model(images()) - before).abs().max() > 1e-3


def test_qv_leaves_the_keys_as_they_were_and_changes_query_and_value(model):
    pristine = copy.deepcopy(model)
    adapt(model, TrainConfig(targets="qv"))
    train_briefly(model)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    for block, before in zip(model.blocks, pristine.blocks):
        now, then = block.attn.qkv(x).split(64, dim=-1), before.attn.qkv(x).split(64, dim=-1)
        torch.testing.assert_close(now[1], then[1], rtol=0, atol=1e-6)
        assert (now[0] - then[0]).abs().max() > 1e-3 and (now[2] - then[2]).abs().max() > 1e-3


@pytest.mark.parametrize("targets", ["qkv", "qv"])
def test_training_adapters_leaves_every_pretrained_weight_alone(model, targets):
    adapt(model, TrainConfig(targets=targets, dropout=0.2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_briefly(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained(model)


# Of rank 4 and alpha 12: 12 / 4, 2 and 12 / √4.
@pytest.mark.parametrize(("mode", "scale"), [("fixed", 3.0), ("2r", 2.0), ("rslora", 6.0)])
def test_the_update_is_the_modes_scale_times_b_a(model, mode, scale):
    adapt(model, TrainConfig(rank=4, alpha=12.0, alpha_mode=mode))
    layer, x = model.blocks[0].attn.qkv, torch.randn(3, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
    torch.testing.assert_close(layer(x) - layer.base_layer(x), scale * (x @ a.T @ b.T), rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_how_adapters_start(model):
    first, again, other = (adapt(copy.deepcopy(model), TrainConfig(seed=seed)) for seed in (1, 1, 2))
    name = "blocks.0.attn.qkv.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_adapting_and_checking_leave_the_callers_random_stream_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_adapters(adapt(model, TrainConfig(dropout=0.5)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_check_leaves_gradients_and_mode_alone(model, training):
    adapt(model, TrainConfig()).train(training)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    check_adapters(model)
    assert model.training is training
    grads = {name for name, p in model.named_parameters() if p.grad is not None}
    assert grads == {"head.weight"} and (model.head.weight.grad == 1).all()


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_classes": 5}
FAMILIES = {  # as they come, all but the last read qkv's weight past the layer
    "swinv2": lambda: SwinTransformerV2(
        img_size=32, patch_size=4, embed_dim=24, depths=(1, 2), num_heads=(2, 3), window_size=4, num_classes=5
    ),
    "beit": lambda: Beit(**SMALL, depth=3, num_heads=3, qkv_bias=True, use_rel_pos_bias=True, init_values=0.1),
    "eva": lambda: Eva(**SMALL, depth=3, num_heads=3, qkv_fused=True),
    "eva02": lambda: Eva(**SMALL, depth=3, num_heads=3, qkv_fused=False, use_rot_pos_emb=True),
}
BYPASSING = [name for name in FAMILIES if name != "eva02"]
PREFIXES = {"swinv2": ["layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1"]}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def small(family: str):
    """Random weights, none of them zero: timm starts biases, and the scale of Swin-v2's residual branches, at zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = FAMILIES[family]().eval()
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def pixels() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_the_remedy_changes_no_output(family):
    model = small(family)
    before = model(pixels())
    call_qkv(model)
    torch.testing.assert_close(model(pixels()), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("targets", ["qkv", "qv", "qkv+proj", "all"])
def test_in_every_family_adapters_start_as_the_identity_and_merge_into_the_same_outputs(family, targets):
    model = small(family)
    before = model(pixels())
    adapt(model, TrainConfig(targets=targets, rank=2))
    check_adapters(model)
    torch.testing.assert_close(model(pixels()), before, rtol=0, atol=1e-5)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" not in name}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    adapted, adapters = model(pixels()), [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    assert (adapted - before).abs().max() > 1e-3
    for adapter in adapters:
        adapter.merge()
    torch.testing.assert_close(model(pixels()), adapted, rtol=0, atol=1e-4)
    moved = {name for name, p in model.named_parameters() if name in base and not torch.equal(p, base[name])}
    assert len(moved) == len(adapters) and all(name.endswith("base_layer.weight") for name in moved)


@pytest.mark.parametrize(("last_blocks", "count"), [(0, 3), (1, 1), (2, 2)])
def test_the_last_blocks_are_counted_from_the_end_in_every_family(family, last_blocks, count):
    model = adapt(small(family), TrainConfig(targets="qv", last_blocks=last_blocks))
    prefixes = PREFIXES.get(family, [f"blocks.{i}" for i in range(3)])[-count:]
    layers = ("q_proj", "v_proj") if family == "eva02" else ("qkv.q", "qkv.v")
    adapted = {name.split(".lora_")[0] for name in trained(model) if "lora_" in name}
    assert adapted == {f"{prefix}.attn.{layer}" for prefix in prefixes for layer in layers}
    with pytest.raises(ConfigError, match=r"^`last_blocks <= 3` must hold"):
        adapt(small(family), TrainConfig(last_blocks=4))


def test_a_swins_head_trains_and_its_pooling_stays():
    model = adapt(small("swinv2"), TrainConfig(rank=2))
    assert {name for name in trained(model) if "lora_" not in name} == {"head.fc.weight", "head.fc.bias"}
    assert parameter_counts(model)[0] == 2 * ((24 + 72) + 2 * (48 + 144)) + 48 * 5 + 5


def test_a_layer_that_eva_lacks_is_named():
    eva = Eva(**SMALL, depth=1, num_heads=3, qkv_fused=False, swiglu_mlp=True, scale_mlp=True)
    with pytest.raises(ConfigError, match=r"targets=all needs linear layers that .* lacks: blocks\.0\.mlp\.fc1$"):
        adapt(eva, TrainConfig(targets="all"))


@pytest.mark.parametrize("name", BYPASSING)
def test_without_the_remedy_the_guard_fires(name):
    model = adapt(small(name), TrainConfig(targets="qkv+proj")).eval()
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = False  # as timm makes it
    with pytest.raises(ConfigError, match=r"^3 of 6 adapters get no gradient .*blocks\.0\.attn\.qkv\.lora_B"):
        check_adapters(model)
    assert not model.training


def test_an_adapter_whose_gradient_is_all_zero_is_found(model):
    with torch.no_grad():
        model.blocks[1].attn.proj.weight.zero_()  # attention is computed and thrown away
    with pytest.raises(ConfigError, match=r"^1 of 3 adapters get no gradient .* first blocks\.1\.attn\.qkv"):
        check_adapters(adapt(model, TrainConfig()))


def test_targets_that_a_model_lacks_are_named(model):
    model.blocks[1].attn.proj = torch.nn.Identity()
    with pytest.raises(
        ConfigError, match=r"targets=all needs linear layers that vit_nano lacks: blocks\.1\.attn\.proj"
    ):
        adapt(model, TrainConfig(targets="all"))


def test_more_last_blocks_than_there_are_is_refused(model):
    with pytest.raises(ConfigError, match=r"^`last_blocks <= 3` must hold .* but got last_blocks=4$"):
        adapt(model, TrainConfig(last_blocks=4))
