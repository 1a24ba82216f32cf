"""The user's own folder of images (metadata.csv), with a small ImageNet transformer or with CLIP's image tower."""

import dataclasses

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.space import Space, by_method, for_full

# The penalty is a sum over the classes: with ten of them, photographs fail at λ = 1 (FairLoRA: accuracy .41, at λ = 0.1
# .89), and on digits the best of 78 runs at λ = 10 is at .70, where half of the runs at λ = 0.1 exceed .75. With more
# classes the same λ is stronger. `--set lam=…` takes any value.
LAMBDA = FloatDistribution(0.01, 1.0, log=True)

VIT_TINY = Space(
    name="folder_vit_tiny",
    about="ViT-Tiny/16 (ImageNet) on a folder of images with metadata.csv",
    fixed={"data": "folder", "backbone": "vit_tiny", "image_size": 224, "epochs": 8},
    search={
        "rank": CategoricalDistribution((4, 8, 16, 32, 64)),
        "alpha": CategoricalDistribution((8.0, 16.0, 32.0)),
        "lr": by_method(FloatDistribution(5e-4, 1e-2, log=True), FloatDistribution(2e-5, 5e-4, log=True)),
        # The head is fresh under every method: at full fine-tuning's small rates it would hardly learn.
        "head_lr": for_full(FloatDistribution(5e-4, 1e-2, log=True)),
        "lam": LAMBDA,
        "weight_decay": FloatDistribution(1e-4, 0.1, log=True),
    },
    first={"lr": by_method(3e-3, 1e-4), "head_lr": 3e-3, "lam": 0.1},
)

# A larger model needs smaller steps; all else is equal.
CLIP = dataclasses.replace(
    VIT_TINY,
    name="folder_clip",
    about="CLIP ViT-B/32 (LAION-2B) on a folder of images with metadata.csv",
    fixed={**VIT_TINY.fixed, "backbone": "clip_b32"},
    search={
        **VIT_TINY.search,
        "lr": by_method(FloatDistribution(1e-4, 5e-3, log=True), FloatDistribution(2e-6, 1e-4, log=True)),
        "head_lr": for_full(FloatDistribution(1e-4, 5e-3, log=True)),
    },
    first={"lr": by_method(1e-3, 1e-5), "head_lr": 1e-3, "lam": 0.1},
)
