"""FairLoRA's three data sets with its ranks and λ, its three backbones and the grid that it ran.

The paper publishes neither optimiser, learning rates, epochs, batch size, alpha nor dropout: those are our choice.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.space import Space, by_method, for_full

RANKS = (8, 16, 32, 64, 128)  # below 4 the paper saw performance drop; `--set rank=1,2,4,8` asks for them
LAMBDAS = (0.01, 0.1, 1.0, 10.0, 100.0)
# Name, title, and learning rates (lowest, first tried, highest) of LoRA and of full fine-tuning. CLIP's are lower, as
# full fine-tuning at those of a supervised ViT destroys its features.
BACKBONES = {
    "clip": ("clip_b32", "CLIP ViT-B/32 (LAION-2B)", (1e-4, 1e-3, 5e-3), (2e-6, 1e-5, 1e-4)),
    "dino": ("dino_b16", "DINO ViT-B/16", (1e-4, 1e-3, 5e-3), (5e-6, 3e-5, 3e-4)),
    "vit": ("vit_b16", "ViT-B/16 (ImageNet)", (1e-4, 1e-3, 5e-3), (5e-6, 3e-5, 3e-4)),
}


def _space(data: str, about: str, epochs: tuple[int, ...], backbone: str) -> Space:
    name, title, *rates = BACKBONES[backbone]
    lora, full = (FloatDistribution(low, high, log=True) for low, _, high in rates)
    return Space(
        name=f"{data}_{backbone}",
        about=f"{title} on {about}",
        fixed={"data": data, "backbone": name, "image_size": 224, "targets": "qv", "batch_size": 64},
        search={
            "rank": CategoricalDistribution(RANKS),
            "alpha": CategoricalDistribution((8.0, 16.0, 32.0, 64.0)),
            "dropout": CategoricalDistribution((0.0, 0.1)),
            "lam": FloatDistribution(LAMBDAS[0], LAMBDAS[-1], log=True),
            "lr": by_method(lora, full),
            "head_lr": for_full(lora),  # fresh under every method: at the body's rates it would hardly learn
            "weight_decay": FloatDistribution(1e-4, 0.1, log=True),
            "epochs": CategoricalDistribution(epochs),
        },
        first={
            "lr": by_method(*(first for _, first, _ in rates)),
            "head_lr": rates[0][1],
            "lam": 0.1,
            "epochs": epochs[-1],
        },
        grid={"rank": RANKS, "lam": LAMBDAS},
        trials=48,
    )


DATA_SETS = (
    # Tables 1 and 3.
    ("geode", "GeoDE: 40 objects, 6 regions", (3, 5, 10)),
    # Tables 2 and 3: land or water behind the birds.
    ("waterbirds", "Waterbirds: 2 classes, 2 grounds", (5, 10, 20)),
    # Table 6. 100 classes in 64 images: about half of them are present in a batch, most of those once.
    ("aircraft", "FGVC-Aircraft: 100 variants, by manufacturer", (10, 20, 40)),
)
SPACES = [_space(*data_set, backbone) for data_set in DATA_SETS for backbone in BACKBONES]
