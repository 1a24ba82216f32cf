"""UTKFace by gender or by age in 9 bins, race as sensitive groups, with the recipe of Ding et al. (section 5.1).

Theirs: batch 32, one cosine cycle with warm-up 0.01, flips as the only augmentation, LoRA on query and value at rank 8
(0 to 768 in the rank study), learning rates and epochs as below. AdamW with weight decay 0.001 comes from the code of
their longer paper; they do not give alpha, so it is our default. The fair methods are not theirs.

The grid has the paper's learning rates. The search goes on to those that the code of their longer paper names as its
best (github.com/kenziyuliu/lora-fairness, experiments/utkface): LoRA 1e-3 (ViT by age, Swin by gender) and 3e-4 (ViT by
gender, Swin by age); all weights 3e-5 and 1e-4 (ViT by gender and by age), 3e-6 and 1e-4 (Swin).
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.space import Space, by_method

RATES = (1e-5, 5e-5, 1e-4, 3e-4)
LORA_EPOCHS, FULL_EPOCHS = (2, 4, 6, 8, 12), (1, 2, 3, 4, 6, 8)
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
TASKS = {"gender": "gender", "age": "age in 9 bins"}
BACKBONES = {"vit": ("vit_b16_in21k", "ViT-B/16 (ImageNet-21k)", 224), "swinv2": ("swinv2_l", "Swin-v2-Large", 192)}


def _space(task: str, backbone: str) -> Space:
    name, title, size = BACKBONES[backbone]
    return Space(
        name=f"utkface_{task}_{backbone}",
        about=f"{title} on UTKFace: {TASKS[task]}, 5 races",
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
            "rank": CategoricalDistribution(RANKS),
            "lam": FloatDistribution(0.01, 100.0, log=True),
            "groups": CategoricalDistribution(("class", "sensitive")),
            "lr": by_method(FloatDistribution(RATES[0], 1e-3, log=True), FloatDistribution(3e-6, RATES[-1], log=True)),
            "epochs": by_method(CategoricalDistribution(LORA_EPOCHS), CategoricalDistribution(FULL_EPOCHS)),
        },
        first={"lr": by_method(3e-4, 5e-5), "lam": 0.1, "epochs": by_method(8, 4)},
        grid={"method": ("lora", "fft"), "lr": RATES, "epochs": by_method(LORA_EPOCHS, FULL_EPOCHS)},
        trials=48,
    )


SPACES = [_space(task, backbone) for task in TASKS for backbone in BACKBONES]
