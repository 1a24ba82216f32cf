"""The spaces that ship: the demo, the user's own folder, and those of the two papers."""

import dataclasses

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.space import Space, by_method

WEIGHT_DECAY = FloatDistribution(1e-4, 0.1, log=True)

DIGITS = Space(
    name="digits",
    about="vit_nano on scikit-learn's handwritten digits with a spurious background; nothing to download",
    # A flipped or cropped digit is another digit.
    fixed={
        "data": "digits",
        "backbone": "vit_nano",
        "image_size": 16,
        "flip": False,
        "crop": 1.0,
        "epochs": 8,
        "batch_size": 64,
    },
    search={
        "rank": CategoricalDistribution((0, 1, 2, 4, 8, 16, 32)),
        "alpha": CategoricalDistribution((8.0, 16.0, 32.0)),
        "lr": by_method(FloatDistribution(1e-3, 1.5e-2, log=True), FloatDistribution(3e-4, 5e-3, log=True)),
        "lam": FloatDistribution(0.01, 10.0, log=True),
        "weight_decay": WEIGHT_DECAY,
    },
    first={"lr": by_method(5e-3, 1e-3)},
)

FOLDER_VIT_TINY = Space(
    name="folder_vit_tiny",
    about="ViT-Tiny/16 (ImageNet) on a folder of images with metadata.csv",
    fixed={"data": "folder", "backbone": "vit_tiny", "image_size": 224, "epochs": 8},
    search={
        "rank": CategoricalDistribution((4, 8, 16, 32, 64)),
        "alpha": CategoricalDistribution((8.0, 16.0, 32.0)),
        "lr": by_method(FloatDistribution(5e-4, 1e-2, log=True), FloatDistribution(2e-5, 5e-4, log=True)),
        "lam": FloatDistribution(0.01, 10.0, log=True),
        "weight_decay": WEIGHT_DECAY,
    },
    first={"lr": by_method(3e-3, 1e-4), "lam": 0.1},
)

# A larger model needs smaller steps; all else is equal.
CLIP_LR = by_method(FloatDistribution(1e-4, 5e-3, log=True), FloatDistribution(2e-6, 1e-4, log=True))
FOLDER_CLIP = dataclasses.replace(
    FOLDER_VIT_TINY,
    name="folder_clip",
    about="CLIP ViT-B/32 (LAION-2B) on a folder of images with metadata.csv",
    fixed={**FOLDER_VIT_TINY.fixed, "backbone": "clip_b32"},
    search={**FOLDER_VIT_TINY.search, "lr": CLIP_LR},
    first={"lr": by_method(1e-3, 1e-5), "lam": 0.1},
)

# FairLoRA's three data sets with its ranks and λ, its three backbones and the grid that it ran. The paper publishes
# neither optimiser, learning rates, epochs, batch size, alpha nor dropout: those are our choice.
FAIRLORA_RANKS = (8, 16, 32, 64, 128)  # below 4 it saw performance drop; `--set rank=1,2,4,8` asks for them
FAIRLORA_LAMBDAS = (0.01, 0.1, 1.0, 10.0, 100.0)
# Name, title, and learning rates (lowest, first tried, highest) of LoRA and of full fine-tuning. CLIP's are lower, as
# full fine-tuning at those of a supervised ViT destroys its features.
FAIRLORA_BACKBONES = {
    "clip": ("clip_b32", "CLIP ViT-B/32 (LAION-2B)", (1e-4, 1e-3, 5e-3), (2e-6, 1e-5, 1e-4)),
    "dino": ("dino_b16", "DINO ViT-B/16", (1e-4, 1e-3, 5e-3), (5e-6, 3e-5, 3e-4)),
    "vit": ("vit_b16", "ViT-B/16 (ImageNet)", (1e-4, 1e-3, 5e-3), (5e-6, 3e-5, 3e-4)),
}
FAIRLORA_DATA = {
    # Tables 1 and 3.
    "geode": ("GeoDE: 40 objects, 6 regions", (3, 5, 10)),
    # Tables 2 and 3: land or water behind the birds.
    "waterbirds": ("Waterbirds: 2 classes, 2 grounds", (5, 10, 20)),
    # Table 6. 100 classes in 64 images: about half of them are present in a batch, most of those once.
    "aircraft": ("FGVC-Aircraft: 100 variants, by manufacturer", (10, 20, 40)),
}


def _fairlora(data: str, backbone: str) -> Space:
    (about, epochs), (name, title, *rates) = FAIRLORA_DATA[data], FAIRLORA_BACKBONES[backbone]
    lora, full = (FloatDistribution(low, high, log=True) for low, _, high in rates)
    return Space(
        name=f"{data}_{backbone}",
        about=f"{title} on {about}",
        fixed={"data": data, "backbone": name, "image_size": 224, "targets": "qv", "batch_size": 64},
        search={
            "rank": CategoricalDistribution(FAIRLORA_RANKS),
            "alpha": CategoricalDistribution((8.0, 16.0, 32.0, 64.0)),
            "dropout": CategoricalDistribution((0.0, 0.1)),
            "lam": FloatDistribution(FAIRLORA_LAMBDAS[0], FAIRLORA_LAMBDAS[-1], log=True),
            "lr": by_method(lora, full),
            "weight_decay": WEIGHT_DECAY,
            "epochs": CategoricalDistribution(epochs),
        },
        first={"lr": by_method(*(first for _, first, _ in rates)), "lam": 0.1, "epochs": epochs[-1]},
        grid={"rank": FAIRLORA_RANKS, "lam": FAIRLORA_LAMBDAS},
        trials=48,
    )


# UTKFace by gender or by age in 9 bins, race as sensitive groups, with the recipe of Ding et al. (section 5.1): batch
# 32, one cosine cycle with warm-up 0.01, flips as the only augmentation, LoRA on query and value at rank 8 (0 to 768 in
# the rank study), learning rates and epochs as below. AdamW with weight decay 0.001 comes from the code of their longer
# paper; they do not give alpha, so it is our default. The fair methods are not theirs.
DING_RATES = (1e-5, 5e-5, 1e-4, 3e-4)
DING_LORA_EPOCHS, DING_FULL_EPOCHS = (2, 4, 6, 8, 12), (1, 2, 3, 4, 6, 8)
DING_RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
DING_TASKS = {"gender": "gender", "age": "age in 9 bins"}
DING_BACKBONES = {
    "vit": ("vit_b16_in21k", "ViT-B/16 (ImageNet-21k)", 224),
    "swinv2": ("swinv2_l", "Swin-v2-Large", 192),
}


def _ding(task: str, backbone: str) -> Space:
    name, title, size = DING_BACKBONES[backbone]
    return Space(
        name=f"utkface_{task}_{backbone}",
        about=f"{title} on UTKFace: {DING_TASKS[task]}, 5 races",
        fixed={
            "data": f"utkface_{task}",
            "backbone": name,
            "image_size": size,
            "targets": "qv",
            "batch_size": 32,
            "warmup": 0.01,
            "weight_decay": 1e-3,
            "crop": 1.0,
        },
        search={
            "rank": CategoricalDistribution(DING_RANKS),
            "lam": FloatDistribution(0.01, 100.0, log=True),
            "groups": CategoricalDistribution(("class", "sensitive")),
            "lr": FloatDistribution(DING_RATES[0], DING_RATES[-1], log=True),
            "epochs": by_method(CategoricalDistribution(DING_LORA_EPOCHS), CategoricalDistribution(DING_FULL_EPOCHS)),
        },
        first={"lr": by_method(3e-4, 5e-5), "lam": 0.1, "epochs": by_method(8, 4)},
        grid={"method": ("lora", "fft"), "lr": DING_RATES, "epochs": by_method(DING_LORA_EPOCHS, DING_FULL_EPOCHS)},
        trials=48,
    )


ALL = (
    *(DIGITS, FOLDER_VIT_TINY, FOLDER_CLIP),
    *(_fairlora(data, backbone) for data in FAIRLORA_DATA for backbone in FAIRLORA_BACKBONES),
    *(_ding(task, backbone) for task in DING_TASKS for backbone in DING_BACKBONES),
)
