"""What one training run is: the METHODS table and TrainConfig, the only place where a default is written.

Standard library only, so that ``--help`` and the analysis start without torch.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A user's mistake. Its message is one line: the rule, the value, what to do."""


class DoesNotFit(ConfigError):
    """Not even a single image fits into the GPU's memory."""


@dataclass(frozen=True)
class Method:
    """One fine-tuning method: what it trains, and which hyperparameters exist for it alone."""

    adapts: str
    lora: bool
    fair: bool

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        return LORA_HYPERPARAMETERS * self.lora + FAIR_HYPERPARAMETERS * self.fair


LORA_HYPERPARAMETERS = ("rank", "alpha", "dropout", "targets", "last_blocks", "cache_prefix")
FAIR_HYPERPARAMETERS = ("lam", "groups", "reduction", "penalty_center", "penalty_decay")
METHODS = {
    "lora": Method("low-rank adapters and the head", lora=True, fair=False),
    "fairlora": Method("low-rank adapters and the head, with the fairness penalty", lora=True, fair=True),
    "fft": Method("every weight", lora=False, fair=False),
    "fairfft": Method("every weight, with the fairness penalty", lora=False, fair=True),
}
TARGETS = ("qkv", "qv", "qkv+proj", "all")
GROUPS = ("class", "sensitive", "class_x_sensitive")
BALANCES = ("none", *GROUPS)
REDUCTIONS = ("sum", "mean")
CENTERS = ("batch", "running")
DTYPES = ("float32", "bfloat16")
DATA_NAMES = ("digits", "folder", "geode", "waterbirds", "aircraft", "utkface_gender", "utkface_age")
CLIP_BACKBONES = ("clip_b32", "clip_b32_openai")
VIT_BACKBONES = ("vit_nano", "vit_tiny", "vit_b16", "vit_b16_in21k", "dino_b16")
BACKBONE_NAMES = (*VIT_BACKBONES, *CLIP_BACKBONES, "swinv2_t", "swinv2_l")
HEADS = ("linear", "zeroshot")


def _number(
    default: float,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    about: str,
) -> Any:
    """A numeric field with closed bounds ``low`` and ``high``, or the open bounds ``above`` and ``below``."""
    rules = [(">", above), (">=", low), ("<=", high), ("<", below)]
    return field(default=default, metadata={"rules": [r for r in rules if r[1] is not None], "about": about})


def _choice(default: str, options: tuple[str, ...], about: str) -> Any:
    return field(default=default, metadata={"options": options, "about": about})


def _flag(default: bool, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class TrainConfig:
    """One training run, flat and validated. Learning rates are AdamW's; sizes are in pixels of a square side.

    Raises ConfigError where a value breaks its field's rule. The papers publish neither optimiser, learning
    rate, epochs, batch size, alpha, dropout nor target modules: those defaults are this project's choice.
    """

    data: str = _choice("digits", DATA_NAMES, "data set")
    backbone: str = _choice("vit_nano", BACKBONE_NAMES, "pretrained backbone")
    image_size: int = _number(16, 8, 1024, about="side of the square input image, pixels")
    head: str = _choice("linear", HEADS, "a fresh linear layer, or CLIP's text embeddings of the class names")
    method: str = _choice("lora", tuple(METHODS), "what is adapted, and whether the fairness penalty is on")
    rank: int = _number(8, 0, about="rank of the adapters; 0 trains the head alone")
    alpha: float = _number(16.0, above=0, about="LoRA scale: the update is alpha / rank times B A")
    dropout: float = _number(0.0, 0, 0.95, about="dropout on the adapters' input")
    # The fused layer is the default: it reproduces the trainable-parameter counts of FairLoRA's table 5 and
    # leaves timm's module as it is. `qv` has the same count, costs a little more time, and is Ding et al.'s choice.
    targets: str = _choice("qkv", TARGETS, "layers that get an adapter")
    last_blocks: int = _number(0, 0, about="adapt only this many last blocks; 0 adapts every block")
    cache_prefix: bool = _flag(True, "keep what frozen blocks compute of an image; matters with last_blocks alone")
    lam: float = _number(1.0, 0, about="λ, weight of the fairness penalty (FairLoRA, equation 1)")
    groups: str = _choice("class", GROUPS, "groups of the fairness penalty")
    reduction: str = _choice("sum", REDUCTIONS, "penalty as a sum over the groups present (the paper's) or their mean")
    penalty_center: str = _choice("batch", CENTERS, "groups judged by the batch alone (the paper's) or running means")
    penalty_decay: float = _number(0.5, 0, below=1, about="what a running mean keeps at each batch with its group")
    lr: float = _number(1e-3, above=0, about="peak learning rate of the body")
    head_lr: float = _number(0.0, 0, about="peak learning rate of the head; 0 takes lr")
    weight_decay: float = _number(0.01, 0, about="AdamW's decoupled weight decay; biases, norms and tokens have none")
    batch_size: int = _number(32, 1, about="images a step")
    micro_batch: int = _number(0, 0, about="images a forward pass, at equal gradients; 0 takes batch_size")
    balance: str = _choice("none", BALANCES, "groups with equal shares of each batch; none draws at random")
    per_group: int = _number(4, 1, about="images of each group in a balanced batch")
    epochs: int = _number(8, 1, about="passes over the training split")
    warmup: float = _number(0.1, 0, 0.9, about="share of all steps with a linearly rising learning rate")
    clip_norm: float = _number(1.0, 0, about="largest gradient norm; 0 switches clipping off")
    flip: bool = _flag(True, "random horizontal flips")
    crop: float = _number(0.8, 0.05, 1, about="smallest area share of the random crop; 1 switches cropping off")
    views: int = _number(
        0, 0, about="fixed augmented views of each image, one an epoch in turn; 0 draws anew every epoch"
    )
    dtype: str = _choice("float32", DTYPES, "autocast type of the forward pass; the loss is float32 always")
    seed: int = _number(0, 0, 2**31 - 1, about="seed of the head, the adapters, the order and the augmentation")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))
        if self.head == "zeroshot" and self.backbone not in CLIP_BACKBONES:
            known = ", ".join(CLIP_BACKBONES)
            raise ConfigError(f"`head = zeroshot` needs a CLIP backbone ({known}), but got backbone={self.backbone}")

    @property
    def accumulates(self) -> bool:
        """Whether a full batch takes more than one forward pass."""
        return 0 < self.micro_batch < self.batch_size

    @property
    def adapts(self) -> bool:
        """Whether low-rank adapters exist (a LoRA method with a positive rank)."""
        return METHODS[self.method].lora and self.rank > 0

    @property
    def augments(self) -> bool:
        """Whether training images are flipped or cropped."""
        return self.flip or self.crop < 1

    @property
    def has_prefix(self) -> bool:
        """Whether frozen blocks may come before the adapted ones, in a backbone that is one row of blocks (no Swin)."""
        return self.adapts and self.last_blocks > 0 and self.backbone in (*VIT_BACKBONES, *CLIP_BACKBONES)

    def hyperparameters(self) -> dict[str, Any]:
        """The fields that matter to this run, in their order: a plain method has no ``lam``, FFT no ``rank``, and at
        rank 0 there are no adapters whose ``alpha`` or ``targets`` could matter."""
        absent = absent_for(self.method)
        if not self.adapts:
            absent |= {*LORA_HYPERPARAMETERS} - {"rank"}
        if self.penalty_center == "batch":
            absent |= {"penalty_decay"}
        if self.balance == "none":
            absent |= {"per_group"}
        if not self.accumulates:
            absent |= {"micro_batch"}
        if not self.has_prefix:
            absent |= {"cache_prefix"}
        if not self.augments or self.views == 0:
            absent |= {"views"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in absent}

    @property
    def config_id(self) -> str:
        """Ten hexadecimal digits, equal for runs that differ in nothing but their seed."""
        content = {k: v for k, v in self.hyperparameters().items() if k != "seed"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


FIELDS = {spec.name: spec for spec in dataclasses.fields(TrainConfig)}


def absent_for(method: str) -> set[str]:
    """The hyperparameters that ``method`` lacks. Raises ConfigError for an unknown method."""
    existing = set(lookup(METHODS, method, "method").hyperparameters)
    return {*LORA_HYPERPARAMETERS, *FAIR_HYPERPARAMETERS} - existing


def lookup(table: Mapping[str, T], key: str, what: str) -> T:
    """``table[key]``, or a ConfigError with the keys that may be meant, the nearest first, and all that are known."""
    if key not in table:
        longer = [name for name in table if key and name.startswith(key.lower())]
        near = list(dict.fromkeys([*longer, *difflib.get_close_matches(key.lower(), table)]))[:2]
        hint = f", did you mean {' or '.join(near)}?" if near else ";"
        raise ConfigError(f"unknown {what} {key!r}{hint} known: {', '.join(sorted(table))}")
    return table[key]


def parse(name: str, text: str) -> Any:
    """The value of field ``name`` written as ``text`` on the command line (``--set name=text``)."""
    spec = lookup(FIELDS, name, "hyperparameter")
    kind: Any = spec.type
    if kind is bool:
        values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in values:
            raise ConfigError(f"`{name} is true or false` must hold, but got {name}={text}")
        return values[text.lower()]
    try:
        return _checked(spec, kind(text))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"`{name} is {_KINDS[kind]}` must hold, but got {name}={text}") from error


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` in the field's type, or a ConfigError that states the rule, then the value."""
    got = f"but got {spec.name}={value}"
    if "options" in spec.metadata and value not in spec.metadata["options"]:
        options = ", ".join(spec.metadata["options"])
        raise ConfigError(f"{spec.name} must be one of {options}, {got}")
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not spec.type:
        raise ConfigError(f"`{spec.name} is {_KINDS[spec.type]}` must hold, {got}")
    for sign, bound in spec.metadata.get("rules", ()):
        # Written so that NaN breaks every rule.
        if not {">": value > bound, ">=": value >= bound, "<=": value <= bound, "<": value < bound}[sign]:
            raise ConfigError(f"`{spec.name} {sign} {bound}` must hold, {got}")
    if value == math.inf:
        raise ConfigError(f"`{spec.name} < inf` must hold, {got}")
    return value
