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


LORA_HYPERPARAMETERS = ("rank", "alpha", "alpha_mode", "dropout", "targets", "last_blocks", "cache_prefix")
FAIR_HYPERPARAMETERS = ("lam", "groups", "reduction", "penalty_center", "penalty_decay")
METHODS = {
    "lora": Method("low-rank adapters and the head", lora=True, fair=False),
    "fairlora": Method("low-rank adapters and the head, with the fairness penalty", lora=True, fair=True),
    "fft": Method("every weight", lora=False, fair=False),
    "fairfft": Method("every weight, with the fairness penalty", lora=False, fair=True),
}
ALPHA_MODES = ("fixed", "2r", "rslora")
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
SIGNS = {"above": ">", "low": ">=", "high": "<=", "below": "<"}


def _field(default: Any, about: str, options: tuple[str, ...] = (), **bounds: float) -> Any:
    """A field with its help and its rule: one of ``options``, or the ``bounds`` that SIGNS names."""
    rules = [(SIGNS[name], bound) for name, bound in bounds.items()]
    return field(default=default, metadata={"about": about, "options": options, "rules": rules})


@dataclass(frozen=True)
class TrainConfig:
    """One training run, flat and validated. Learning rates are AdamW's; sizes are in pixels of a square side.

    Raises ConfigError where a value breaks its field's rule. The papers publish neither optimiser, learning
    rate, epochs, batch size, alpha, dropout nor target modules: those defaults are this project's choice.
    """

    data: str = _field("digits", "data set", DATA_NAMES)
    backbone: str = _field("vit_nano", "pretrained backbone", BACKBONE_NAMES)
    image_size: int = _field(16, "side of the square input image, pixels", low=8, high=1024)
    head: str = _field("linear", "a fresh linear layer, or CLIP's text embeddings of the class names", HEADS)
    method: str = _field("lora", "what is adapted, and whether the fairness penalty is on", tuple(METHODS))
    rank: int = _field(8, "rank of the adapters; 0 trains the head alone", low=0)
    alpha: float = _field(16.0, "LoRA scale: the update is alpha / rank times B A; see alpha_mode", above=0)
    # With a fixed alpha a higher rank has a smaller scale; `rslora` is Kalajdzievski 2023's, peft's use_rslora.
    alpha_mode: str = _field("fixed", "LoRA scale: alpha / rank, 2r: 2, rslora: alpha / √rank", ALPHA_MODES)
    dropout: float = _field(0.0, "dropout on the adapters' input", low=0, high=0.95)
    # The fused layer is the default: it reproduces the trainable-parameter counts of FairLoRA's table 5 and
    # leaves timm's module as it is. `qv` has the same count, costs a little more time, and is Ding et al.'s choice.
    targets: str = _field("qkv", "layers that get an adapter", TARGETS)
    last_blocks: int = _field(0, "adapt only this many last blocks; 0 adapts every block", low=0)
    cache_prefix: bool = _field(True, "keep what frozen blocks compute of an image; matters with last_blocks alone")
    lam: float = _field(1.0, "λ, weight of the fairness penalty (FairLoRA, equation 1)", low=0)
    groups: str = _field("class", "groups of the fairness penalty", GROUPS)
    reduction: str = _field("sum", "penalty as a sum over the groups present (the paper's) or their mean", REDUCTIONS)
    penalty_center: str = _field("batch", "groups judged by the batch alone (the paper's) or running means", CENTERS)
    penalty_decay: float = _field(0.5, "what a running mean keeps at each batch with its group", low=0, below=1)
    lr: float = _field(1e-3, "peak learning rate of the body", above=0)
    head_lr: float = _field(0.0, "peak learning rate of the head; 0 takes lr", low=0)
    weight_decay: float = _field(0.01, "AdamW's decoupled weight decay; biases, norms and tokens have none", low=0)
    batch_size: int = _field(32, "images a step", low=1)
    micro_batch: int = _field(0, "images a forward pass, at equal gradients; 0 takes batch_size", low=0)
    balance: str = _field("none", "groups with equal shares of each batch; none draws at random", BALANCES)
    per_group: int = _field(4, "images of each group in a balanced batch", low=1)
    epochs: int = _field(8, "passes over the training split", low=1)
    warmup: float = _field(0.1, "share of all steps with a linearly rising learning rate", low=0, high=0.9)
    clip_norm: float = _field(1.0, "largest gradient norm; 0 switches clipping off", low=0)
    flip: bool = _field(True, "random horizontal flips")
    crop: float = _field(0.8, "smallest area share of the random crop; 1 switches cropping off", low=0.05, high=1)
    views: int = _field(0, "fixed augmented views of each image, one an epoch in turn; 0 draws anew every epoch", low=0)
    dtype: str = _field("float32", "autocast type of the forward pass; the loss is float32 always", DTYPES)
    seed: int = _field(0, "seed of the head, the adapters, the order and the augmentation", low=0, high=2**31 - 1)

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
    def lora_alpha(self) -> float:
        """peft's ``lora_alpha``, which ``alpha_mode=2r`` sets itself."""
        return 2.0 * self.rank if self.alpha_mode == "2r" else self.alpha

    @property
    def lora_scale(self) -> float:
        """What B A is multiplied with, in peft's order of operations. Needs a positive rank."""
        return self.lora_alpha / (math.sqrt(self.rank) if self.alpha_mode == "rslora" else self.rank)

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
        needs = {
            **dict.fromkeys(LORA_HYPERPARAMETERS[1:], self.adapts),
            "alpha": self.adapts and self.alpha_mode != "2r",
            # Left out at its default: records that are older than the field keep their configurations' names.
            "alpha_mode": self.adapts and self.alpha_mode != "fixed",
            "penalty_decay": self.penalty_center == "running",
            "per_group": self.balance != "none",
            "micro_batch": self.accumulates,
            "cache_prefix": self.has_prefix,
            "views": self.augments and self.views > 0,
        }
        absent = absent_for(self.method)
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in absent and needs.get(k, True)}

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
    try:
        value = _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"`{name} is {_KINDS[kind]}` must hold, but got {name}={text}") from error
    return _checked(spec, value)


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` in the field's type, or a ConfigError that states the rule, then the value."""
    got = f"but got {spec.name}={value}"
    options, rules = spec.metadata["options"], spec.metadata["rules"]
    if options and value not in options:
        raise ConfigError(f"{spec.name} must be one of {', '.join(options)}, {got}")
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not spec.type:
        raise ConfigError(f"`{spec.name} is {_KINDS[spec.type]}` must hold, {got}")
    for sign, bound in rules:
        # Written so that NaN breaks every rule.
        if not {">": value > bound, ">=": value >= bound, "<=": value <= bound, "<": value < bound}[sign]:
            raise ConfigError(f"`{spec.name} {sign} {bound}` must hold, {got}")
    if value == math.inf:
        raise ConfigError(f"`{spec.name} < inf` must hold, {got}")
    return value
