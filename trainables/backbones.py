"""BACKBONES: pretrained transformers as timm models, their weights, normalisation and a fresh head."""

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import timm
import torch
from torch import nn

from trainables import clip, nano, pretrained, zeroshot
from trainables.config import ConfigError, TrainConfig, lookup
from trainables.pretrained import RANDOM
from trainables.seeds import seed_for
from trainables.store import cache_folder, replace_atomically, save_safetensors

RGB = tuple[float, float, float]
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_GELU, CLIP_QUICKGELU = "vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"


@dataclass(frozen=True)
class Backbone:
    """One row of BACKBONES. ``arch`` is timm's name ("" is made here), ``tag`` the weights' on the hub, ``mean`` and
    ``std`` belong to [0, 1] RGB, ``image_size`` is the pretraining's in pixels. ``window`` is a Swin's at that size,
    ``clip`` is open_clip's name of a CLIP, through which its weights come."""

    about: str
    arch: str
    tag: str
    mean: RGB
    std: RGB
    image_size: int
    window: int = 0
    clip: str = ""

    @property
    def quick_gelu(self) -> bool:
        """Whether the network computes OpenAI's activation."""
        return "quickgelu" in self.arch


BACKBONES = {
    "vit_nano": Backbone("demo transformer, pretrained here on handwritten digits", "", "", HALF, HALF, 16),
    "vit_tiny": Backbone(
        "ViT-Ti/16, ImageNet-21k then 1k", "vit_tiny_patch16_224", "augreg_in21k_ft_in1k", HALF, HALF, 224
    ),
    "vit_b16": Backbone(
        "ViT-B/16, ImageNet-21k then 1k", "vit_base_patch16_224", "augreg_in21k_ft_in1k", HALF, HALF, 224
    ),
    "vit_b16_in21k": Backbone("ViT-B/16, ImageNet-21k", "vit_base_patch16_224", "augreg_in21k", HALF, HALF, 224),
    "dino_b16": Backbone("DINO ViT-B/16, no labels", "vit_base_patch16_224", "dino", IMAGENET_MEAN, IMAGENET_STD, 224),
    "clip_b32": Backbone(
        "CLIP ViT-B/32, LAION-2B", CLIP_GELU, "laion2b_s34b_b79k", CLIP_MEAN, CLIP_STD, 224, clip="ViT-B-32"
    ),
    "clip_b32_openai": Backbone(
        "CLIP ViT-B/32, OpenAI", CLIP_QUICKGELU, "openai", CLIP_MEAN, CLIP_STD, 224, clip="ViT-B-32-quickgelu"
    ),
    "swinv2_t": Backbone(
        "Swin-v2-T, ImageNet-1k", "swinv2_tiny_window8_256", "ms_in1k", IMAGENET_MEAN, IMAGENET_STD, 256, window=8
    ),
    "swinv2_l": Backbone(
        "Swin-v2-L, ImageNet-22k", "swinv2_large_window12_192", "ms_in22k", IMAGENET_MEAN, IMAGENET_STD, 192, window=12
    ),
}  # fmt: skip


def create(name: str, image_size: int) -> nn.Module:
    """The bare transformer with random weights and no head; it takes float ``[n, 3, image_size, image_size]``."""
    row = lookup(BACKBONES, name, "backbone")
    if name == "vit_nano":
        if image_size != row.image_size:
            raise ConfigError(f"`image_size = 16` must hold for vit_nano, but got image_size={image_size}")
        return nano.vit_nano()
    model = timm.create_model(row.arch, num_classes=0, img_size=image_size, **windows(name, row, image_size))
    patch = model.patch_embed.patch_size[0]
    if image_size % patch:  # timm would leave the pixels at the right and lower edge unseen
        raise ConfigError(f"`image_size` must be a multiple of {name}'s patch of {patch}, but got {image_size}")
    return model


def windows(name: str, row: Backbone, image_size: int) -> dict:
    """A Swin's windows grow with the image, as when its authors fine-tuned it at larger sizes, and its position bias,
    a function of relative coordinates, is told the windows that it was trained with. Four stages halve the grid of
    4 px patches, so that a multiple of 32 px has whole windows in each."""
    if not row.window:
        return {}
    if image_size % 32 or image_size < 64:
        raise ConfigError(
            f"`image_size` must be a multiple of 32 and at least 64 for {name}'s windows, but got {image_size}"
        )
    grids = [row.image_size // 4 // 2**stage for stage in range(4)]
    trained = tuple(min(row.window, grid) for grid in grids)
    # timm's default drops whole branches at random: a regulariser that no configuration would show.
    window = row.window * image_size // row.image_size
    return {"window_size": window, "pretrained_window_sizes": trained, "drop_path_rate": 0.0}


def weights_file(name: str, weights: str | Path | None) -> str | Path | None:
    """What ``load`` will read: the user's file, "random", vit_nano's cached file (made here in about 20 s if it is
    missing), or None, which stands for the hub."""
    if weights == RANDOM:
        return RANDOM
    if weights is not None:
        if not Path(weights).is_file():
            raise ConfigError(f"--weights must be a file or the word random, but {weights} is no file")
        return Path(weights)
    if name != "vit_nano":
        return None
    path = nano_file()
    if not path.exists():
        state = {k: v.contiguous() for k, v in nano.pretrain().items()}
        replace_atomically(path, lambda temporary: save_safetensors(state, temporary))
    return path


def nano_file() -> Path:
    """Where vit_nano's weights lie once they are made."""
    return cache_folder() / f"vit_nano-{_nano_version()}.safetensors"


def _nano_version() -> str:
    """Changes with anything that the weights depend on: the recipe's code and torch itself."""
    from trainables.prepare import digits

    code = Path(nano.__file__).read_bytes() + Path(digits.__file__).read_bytes() + torch.__version__.encode()
    return hashlib.sha256(code).hexdigest()[:10]


@lru_cache(maxsize=1)
def load(name: str, image_size: int, weights: str | None) -> nn.Module:
    """The pretrained transformer without a head, kept in memory: never changed, only copied (``fresh_model``).

    ``weights`` is a safetensors or torch file in timm's, open_clip's or OpenAI's layout; None asks ``weights_file``,
    then the hub; "random" leaves the network untrained, the same in every trial. Position embeddings are resampled to
    ``image_size``. Raises ConfigError where the file is corrupt or misfits.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's stream must not depend on whether the cache has the model
        torch.manual_seed(seed_for(0, "weights", name))
        return _load(name, image_size, weights or weights_file(name, None)).eval()


def _load(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    model, row = create(name, image_size), BACKBONES[name]
    if row.clip:
        state = clip.state_dict(name, row, weights)
    elif weights == RANDOM:
        return _open_branches(model)
    elif weights is None:
        return _download(name, image_size)
    else:
        state = pretrained.read(weights)
    model.load_state_dict(pretrained.fit_to(model, state, name, weights), strict=True)
    return model


def _open_branches(model: nn.Module) -> nn.Module:
    """timm starts each residual branch of a Swin-v2 behind a norm of scale 0, which no adapter could ever open."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
    return model


def _download(name: str, image_size: int) -> nn.Module:
    """The transformer with the weights of timm's hub, through timm's own loading code."""
    row = BACKBONES[name]
    tagged, options = f"{row.arch}.{row.tag}", windows(name, row, image_size)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury the one line below
    try:
        return timm.create_model(tagged, pretrained=True, num_classes=0, img_size=image_size, **options)
    except Exception as error:  # whatever the hub's client raises, what the user can do is the same
        raise ConfigError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}): get model.safetensors of "
            f"timm/{tagged} from the Hugging Face hub on another machine and pass it with --weights FILE, "
            "or start from --weights random"
        ) from error


def fresh_model(config: TrainConfig, classes: Sequence[str], weights: str | None) -> nn.Module:
    """A copy of the pretrained transformer with a new head for ``classes``, not yet adapted.

    ``head=linear`` draws from the stream (seed, "head"); ``head=zeroshot`` starts from the classes' names.
    """
    model = copy.deepcopy(load(config.backbone, config.image_size, weights))
    if config.head == "zeroshot":
        row = BACKBONES[config.backbone]
        zeroshot.attach(model, zeroshot.parts(config.backbone, row, tuple(classes), weights))
        return model
    generator = torch.Generator().manual_seed(seed_for(config.seed, "head"))
    head = nn.utils.skip_init(nn.Linear, model.num_features, len(classes))  # draws nothing from the global stream
    nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    _set_head(model, head)
    return model


def skeleton(config: TrainConfig, n_classes: int) -> nn.Module:
    """``fresh_model`` in its shapes alone, for a count of its parameters under ``torch.device("meta")``."""
    model = create(config.backbone, config.image_size)
    if config.head == "zeroshot":
        zeroshot.attach(model, zeroshot.skeleton(BACKBONES[config.backbone], model.num_features, n_classes))
    else:
        _set_head(model, nn.Linear(model.num_features, n_classes))
    return model


def _set_head(model: nn.Module, head: nn.Linear) -> None:
    """A Swin's head pools as well, and keeps doing so: the linear layer goes into it."""
    if hasattr(model.head, "fc"):
        model.head.fc = head
    else:
        model.head = head
