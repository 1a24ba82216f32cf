"""A trained model as a folder that runs without this project: peft's adapter or whole weights, facts and ``load.py``,
which reads them."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from trainables.config import METHODS, TrainConfig
from trainables.export import load
from trainables.files import file_hash, save_safetensors
from trainables.models import clip, vit_nano
from trainables.models.adapters import parameter_counts
from trainables.models.backbones import BACKBONES, RANDOM, Backbone, windows
from trainables.models.create import fresh_model
from trainables.models.forward import normalised
from trainables.models.weights import Transformer
from trainables.models.zeroshot import ZeroshotHead
from trainables.training.fit import trained_state

LOADER = "load.py"
FUSED = ("q", "k", "v")  # the order of the rows of a fused layer
NO_TARGETS = "dummy-target-modules"  # peft's word for an adapter that is nothing but its modules_to_save


def write(
    folder: Path,
    model: Transformer,
    config: TrainConfig,
    classes: Sequence[str],
    weights: str | None,
    preprocessing: dict[str, Any],
    origin: dict[str, Any],
    merge: bool = False,
) -> float:
    """Write the trained ``model`` (adapted, in float32 on the CPU) into ``folder``, which exists and is empty.

    LoRA methods give an adapter in peft's format, unless ``merge`` folds it into the ``weights`` that training started
    from; untrained ones, and vit_nano's, go with it, as nobody else has them. ``preprocessing`` has ``banner`` and
    ``sizes`` (``load.pixels``). Returns by how much the export's logits, loaded again, differ at most from the model's.
    """
    trained, plain = trained_state(model), fresh_model(config, classes, weights)
    whole = merge or not METHODS[config.method].lora
    source = _source(config, weights)
    if whole:
        save_safetensors(merged(plain.state_dict(), trained, config), folder / load.WHOLE)
    else:
        if source["kind"] == "included":
            body = {k: v for k, v in plain.state_dict().items() if not k.startswith(("head.", "fc_norm."))}
            save_safetensors(body, folder / load.BASE)
            source["sha256"] = file_hash(folder / load.BASE)
        _write_adapter(folder, plain, trained, config, source)
    row, size, head = BACKBONES[config.backbone], config.image_size, plain.head
    architecture = {"name": row.arch, "options": {"img_size": size, **windows(row, size)}}
    if config.backbone == "vit_nano":  # in timm's words, a very small ViT-Ti
        architecture = {"name": "vit_tiny_patch16_224", "options": vit_nano.OPTIONS}
    embed = head.weight.shape[1] if isinstance(head, ZeroshotHead) else 0
    facts = {
        "format": load.FORMAT,
        "weights": "whole" if whole else "adapter",
        "classes": list(classes),
        "architecture": architecture | {"zeroshot": embed},
        "preprocessing": {**preprocessing, "mean": list(row.mean), "std": list(row.std)},
        "base": source,
        "backbone": config.backbone,
        "pretrained": weights if weights == RANDOM else row.tag and f"{row.arch}.{row.tag}",
        "trained_parameters": parameter_counts(model)[0],
        "config": config.hyperparameters(),
        "probe": _logits(model, load.probe(size))[0].tolist(),
        **origin,
    }
    (folder / load.FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(load.__file__, folder / LOADER)
    return difference(model, load.load(folder, weights if source["kind"] == "file" else None), config)


def difference(model: nn.Module, other: nn.Module, config: TrainConfig) -> float:
    """The largest difference between two models' logits, in float32, on images of noise."""
    shape = (4, 3, config.image_size, config.image_size)
    shown = normalised(torch.rand(shape, generator=torch.Generator().manual_seed(0)), config)
    return (_logits(model, shown) - _logits(other, shown)).abs().max().item()


@torch.inference_mode()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model.eval()(images)


def fused(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's weights with those of query and value alone (targets=qv) put together for the fused qkv layer.

    The two updates are one of twice the rank: A = [A_q; A_v], B = [B_q 0; 0 0; 0 B_v]. Names lose peft's ".default".
    """
    named = {name.replace(".default.", "."): value for name, value in trained.items()}
    layers = sorted({name.partition(".q.lora_")[0] for name in named if ".q.lora_" in name})
    for layer in layers:
        a, b = ({p: named.pop(f"{layer}.{p}.lora_{ab}.weight") for p in ("q", "v")} for ab in ("A", "B"))
        zero = torch.zeros_like(b["q"])
        rows = {"q": [b["q"], zero], "k": [zero, zero], "v": [zero, b["v"]]}
        named[f"{layer}.lora_A.weight"] = torch.cat([a["q"], a["v"]])
        named[f"{layer}.lora_B.weight"] = torch.cat([torch.cat(rows[p], dim=1) for p in FUSED])
    return named


def merged(plain: dict[str, Tensor], trained: dict[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """Every weight of the trained model under timm's names: ``plain`` with what was trained put in or added on."""
    state, named = {name: value.clone() for name, value in plain.items()}, fused(trained)
    for name, value in named.items():
        layer, is_a, _ = name.partition(".lora_A.")
        if is_a:  # in float64, so that the sum is rounded once
            update = config.lora_scale * (named[f"{layer}.lora_B.weight"].double() @ value.double())
            state[f"{layer}.weight"] = (state[f"{layer}.weight"].double() + update).float()
        elif ".lora_B." not in name:
            state[name] = value.clone()
    return state


def _write_adapter(
    folder: Path, plain: nn.Module, trained: dict[str, Tensor], config: TrainConfig, source: dict[str, Any]
) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them, with the head in modules_to_save;
    a zero-shot head brings its projection and its scale with it."""
    named, saved = fused(trained), ["head"]
    if config.head == "zeroshot":
        saved.append("fc_norm")
        named |= {k: v for k, v in plain.state_dict().items() if k in ("fc_norm.weight", "head.scale")}
    targets = sorted(name.partition(".lora_A.")[0] for name in named if ".lora_A." in name)
    doubled = 2 if config.adapts and config.targets == "qv" and any(name.endswith(".qkv") for name in targets) else 1
    rslora = config.alpha_mode == "rslora"
    # Twice the rank at the same scale. peft says int, and takes any number.
    alpha: Any = (math.sqrt(doubled) if rslora else doubled) * config.lora_alpha
    lora = LoraConfig(
        r=max(1, doubled * config.rank),
        lora_alpha=alpha,
        use_rslora=rslora,
        lora_dropout=config.dropout,
        target_modules=targets or NO_TARGETS,
        modules_to_save=saved,
        base_model_name_or_path=source.get("repository"),
        inference_mode=True,
    )
    content = lora.to_dict() | {"target_modules": targets or NO_TARGETS}  # peft keeps a set, in any order
    text = json.dumps(content, indent=2, sort_keys=True, default=sorted)
    (folder / load.ADAPTER_CONFIG).write_text(text + "\n")
    save_safetensors(
        {load.PREFIX + name: value for name, value in named.items()}, folder / load.ADAPTER, {"format": "pt"}
    )


def _source(config: TrainConfig, weights: str | None) -> dict[str, Any]:
    """Where the pretrained weights are found: with the adapter, in a file of the user's, or on the hub."""
    if weights == RANDOM or config.backbone == "vit_nano":
        return {"kind": "included", "file": load.BASE, "sha256": ""}
    if weights is not None:
        return {"kind": "file", "file": Path(weights).name, "sha256": file_hash(weights)}
    from huggingface_hub import try_to_load_from_cache

    repository, file = hub_address(BACKBONES[config.backbone])
    path = try_to_load_from_cache(repository, file)  # as it was downloaded for the search, if the cache still has it
    sha256 = file_hash(path) if isinstance(path, str) else ""
    return {"kind": "hub", "repository": repository, "file": file, "sha256": sha256}


def hub_address(row: Backbone) -> tuple[str, str]:
    """Repository and file on the Hugging Face hub from which ``backbones.load`` takes the row's weights."""
    if row.clip:
        return clip.published(row)["hf_hub"].rstrip("/"), "open_clip_model.safetensors"
    return f"timm/{row.arch}.{row.tag}", "model.safetensors"
