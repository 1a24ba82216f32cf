"""What each method trains: LoRA adapters through peft, or every weight; and the proof that no adapter is bypassed."""

import re
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from trainables.config import METHODS, ConfigError, TrainConfig
from trainables.models.weights import Transformer
from trainables.seeds import seed_for

# Module names inside one timm transformer block with a fused qkv layer, and with three layers (EVA-02).
TARGET_MODULES = {
    "qkv": ("attn.qkv",),
    "qv": ("attn.qkv.q", "attn.qkv.v"),
    "qkv+proj": ("attn.qkv", "attn.proj"),
    "all": ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
}
UNFUSED = {"attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.qkv.q": ("attn.q_proj",),
           "attn.qkv.v": ("attn.v_proj",)}  # fmt: skip


class SplitQKV(nn.Module):
    """A fused qkv layer as three layers with the same weights, so that query and value can be adapted alone."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def __init__(self, fused: nn.Linear):
        super().__init__()
        size = fused.out_features // 3
        for i, name in enumerate(("q", "k", "v")):
            rows = slice(i * size, (i + 1) * size)
            layer = nn.Linear(fused.in_features, size, bias=fused.bias is not None, device="meta")
            layer.weight = nn.Parameter(fused.weight.detach()[rows].clone())
            if fused.bias is not None:
                layer.bias = nn.Parameter(fused.bias.detach()[rows].clone())
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def adapt(model: Transformer, config: TrainConfig) -> Transformer:
    """Make ``model`` (with its ``head``) trainable as ``config.method`` says, in place: every weight, or the head and
    adapters, which start as the identity (at rank 0 there are none). Raises ConfigError if a target layer does not
    exist, or the backbone has fewer blocks than ``last_blocks``. ``check_adapters`` then proves that none is bypassed.
    """
    if not METHODS[config.method].lora:
        model.requires_grad_(True)
        return model
    model.requires_grad_(False)
    if config.adapts:
        _inject(model, config)
    model.head.requires_grad_(True)
    return model


def _inject(model: Transformer, config: TrainConfig) -> None:
    call_qkv(model)
    modules = dict(model.named_modules())
    blocks = [name for name in modules if re.fullmatch(r"(layers\.\d+\.)?blocks\.\d+", name)]  # in a Swin's layers
    if config.last_blocks > len(blocks):
        raise ConfigError(
            f"`last_blocks <= {len(blocks)}` must hold for this backbone, but got last_blocks={config.last_blocks}"
        )
    names = []
    for path in blocks[-config.last_blocks :]:  # [-0:] is all of them
        block: Any = modules[path]
        if config.targets == "qv" and isinstance(block.attn.qkv, nn.Linear):
            block.attn.qkv = SplitQKV(block.attn.qkv)
        for target in TARGET_MODULES[config.targets]:
            targets = (target,) if block.attn.qkv is not None else UNFUSED.get(target, (target,))
            names += [f"{path}.{name}" for name in targets]
    layers = dict(model.named_modules())
    missing = [name for name in names if not isinstance(layers.get(name), nn.Linear)]
    if missing:
        raise ConfigError(f"targets={config.targets} needs linear layers that {config.backbone} lacks: {missing[0]}")
    alpha: Any = config.lora_alpha  # peft says int, and takes any number
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        use_rslora=config.alpha_mode == "rslora",
        lora_dropout=config.dropout,
        target_modules=names,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.seed, "adapters"))
        inject_adapter_in_model(lora, model)


def call_qkv(model: nn.Module) -> None:
    """Make Swin-v2, BEiT and EVA call their qkv layer, in place. As they come, they read its weight past any adapter
    around it, which gets no gradient, and yet changes the output once it is merged. timm's own switch gives the same
    sum."""
    module: Any
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True


def check_adapters(model: Transformer) -> None:
    """Prove that every adapter is in the path, or raise ConfigError: after one backward pass every ``lora_B`` has a
    non-zero gradient (it starts at 0, so ``lora_A`` has none yet). Gradients, mode and random streams stay."""
    witnesses = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    if not witnesses:
        return
    device = next(iter(witnesses.values())).device
    size = model.patch_embed.img_size  # height and width
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    training = model.training
    model.eval()
    # The square keeps the sum from being constant behind a normalised head.
    loss = model(noise).float().square().sum()
    gradients = torch.autograd.grad(loss, list(witnesses.values()), allow_unused=True)
    model.train(training)
    silent = [name for name, g in zip(witnesses, gradients) if g is None or not g.any()]
    if silent:
        raise ConfigError(
            f"{len(silent)} of {len(witnesses)} adapters get no gradient (the backbone bypasses the layer), "
            f"first {silent[0]}: choose other targets"
        )


def parameter_counts(model: Transformer) -> tuple[int, int]:
    """``(trainable, total)`` as peft reports them: a head that is saved whole counts beside the one it replaces.

    With ``dino_b16``, 40 classes and rank 8 that is FairLoRA's table 5: 325,672 of 86,155,088.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    if any(not p.requires_grad for p in model.parameters()):
        total += sum(p.numel() for p in model.head.parameters())
    return trainable, total
