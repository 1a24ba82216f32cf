"""Handwritten digits on a spurious background: the demo, two to four seconds a trial."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.space import Space, by_method

SPACE = Space(
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
        "weight_decay": FloatDistribution(1e-4, 0.1, log=True),
    },
    first={"lr": by_method(5e-3, 1e-3)},
)
