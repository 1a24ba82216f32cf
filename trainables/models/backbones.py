"""BACKBONES: which pretrained transformers there are, and the image sizes that they take.

Without torch, so that a wrong option is answered before seconds go into its import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.config import ConfigError, lookup
from trainables.files import file_hash

RANDOM = "random"  # in place of a weights file: an untrained network, the same in every trial
RGB = tuple[float, float, float]
HALF: tuple[RGB, RGB] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # mean and standard deviation, as the two below
IMAGENET: tuple[RGB, RGB] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: tuple[RGB, RGB] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VIT_B16 = "vit_base_patch16_224"
CLIP_GELU, CLIP_QUICKGELU = "vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"
SWIN_T, SWIN_L = "swinv2_tiny_window8_256", "swinv2_large_window12_192"


@dataclass(frozen=True)
class Backbone:
    """One row of BACKBONES."""

    about: str
    arch: str  # timm's name; "" is made here
    tag: str  # the weights' on the hub
    mean: RGB  # of [0, 1] RGB, as std
    std: RGB
    image_size: int = 224  # the pretraining's, in pixels
    patch: int = 16  # the side of a token's pixels
    window: int = 0  # a Swin's at that size
    clip: str = ""  # open_clip's name of a CLIP, through which its weights come

    @property
    def quick_gelu(self) -> bool:
        """Whether the network computes OpenAI's activation."""
        return "quickgelu" in self.arch


BACKBONES = {
    "vit_nano": Backbone("demo transformer, pretrained here on handwritten digits", "", "", *HALF, 16, patch=4),
    "vit_tiny": Backbone("ViT-Ti/16, ImageNet-21k then 1k", "vit_tiny_patch16_224", "augreg_in21k_ft_in1k", *HALF),
    "vit_b16": Backbone("ViT-B/16, ImageNet-21k then 1k", VIT_B16, "augreg_in21k_ft_in1k", *HALF),
    "vit_b16_in21k": Backbone("ViT-B/16, ImageNet-21k", VIT_B16, "augreg_in21k", *HALF),
    "dino_b16": Backbone("DINO ViT-B/16, no labels", VIT_B16, "dino", *IMAGENET),
    "clip_b32": Backbone("CLIP ViT-B/32, LAION-2B", CLIP_GELU, "laion2b_s34b_b79k", *CLIP, patch=32, clip="ViT-B-32"),
    "clip_b32_openai": Backbone(
        "CLIP ViT-B/32, OpenAI", CLIP_QUICKGELU, "openai", *CLIP, patch=32, clip="ViT-B-32-quickgelu"
    ),
    "swinv2_t": Backbone("Swin-v2-T, ImageNet-1k", SWIN_T, "ms_in1k", *IMAGENET, 256, patch=4, window=8),
    "swinv2_l": Backbone("Swin-v2-L, ImageNet-22k", SWIN_L, "ms_in22k", *IMAGENET, 192, patch=4, window=12),
}


def require_size(name: str, image_size: int) -> None:
    """Raise ConfigError unless the backbone ``name`` takes images of ``image_size`` pixels a side.

    A Swin's four stages halve the grid of 4 px patches: a multiple of 32 px has whole windows in each.
    """
    row = lookup(BACKBONES, name, "backbone")
    if name == "vit_nano" and image_size != row.image_size:
        raise ConfigError(f"`image_size = 16` must hold for vit_nano, but got image_size={image_size}")
    if row.window and (image_size % 32 or image_size < 64):
        raise ConfigError(
            f"`image_size` must be a multiple of 32 and at least 64 for {name}'s windows, but got {image_size}"
        )
    if image_size % row.patch:  # timm would leave the pixels at the right and lower edge unseen
        raise ConfigError(f"`image_size` must be a multiple of {name}'s patch of {row.patch}, but got {image_size}")


def windows(row: Backbone, image_size: int) -> dict[str, Any]:
    """A Swin's windows grow with the image, as when its authors fine-tuned it at larger sizes, and its position bias,
    a function of relative coordinates, is told the windows that it was trained with. Nothing for other backbones."""
    if not row.window:
        return {}
    grids = [row.image_size // 4 // 2**stage for stage in range(4)]
    trained = tuple(min(row.window, grid) for grid in grids)
    # timm's default drops whole branches at random: a regulariser that no configuration would show.
    window = row.window * image_size // row.image_size
    return {"window_size": window, "pretrained_window_sizes": trained, "drop_path_rate": 0.0}


def require_file(weights: str | Path | None) -> None:
    """Raise ConfigError unless ``weights`` is a file, the word random, or None."""
    if weights not in (None, RANDOM) and not Path(weights).is_file():
        raise ConfigError(f"`weights` must be a file or the word random, but {weights} is no file")


def fingerprint(weights: str | Path | None) -> str:
    """sha256 of a weights file, for the record; "random" for untrained weights, "" for the hub."""
    if not weights or weights == RANDOM:
        return str(weights or "")
    return file_hash(weights)
