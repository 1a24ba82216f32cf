"""What tables and figures call things: metrics with direction, unit and split; methods as the papers write them."""

from trainables.metrics import METRICS

HYPERPARAMETERS = {"lam": "λ", "lr": "learning rate"}  # the others are called what they are
METHOD_NAMES = {"lora": "LoRA", "fairlora": "FairLoRA", "fft": "FFT", "fairfft": "FairFFT"}
UNITS = {"loss": "nats", "loss_variance": "nats²"}  # every other metric is a rate, in [0, 1]
ARROWS = {"maximize": "↑", "minimize": "↓"}
WORDS = {"maximize": "more is better", "minimize": "less is better"}
SPLITS = {"val": "validation", "test": "test"}


def plain(metric: str) -> str:
    """The metric's name without the prefix of its split, as ``METRICS`` has it."""
    return metric.removeprefix("val_").removeprefix("test_")


def direction(metric: str) -> str:
    """ "maximize" or "minimize". Raises KeyError for what is no metric."""
    return METRICS[plain(metric)].direction


def sign(metric: str) -> float:
    """+1 where more is better, -1 where less is: times a value, more is better."""
    return 1.0 if direction(metric) == "maximize" else -1.0


def name(metric: str) -> str:
    """ "val_delta_f1" → "ΔF1", "val_min_group_accuracy" → "min group accuracy"."""
    words = plain(metric).replace("_", " ").replace("f1", "F1").replace("eod", "EOD")
    return words.replace("delta ", "Δ")


def hyperparameter(name: str) -> str:
    """ "lam" → "λ", "weight_decay" → "weight decay"."""
    return HYPERPARAMETERS.get(name, name.replace("_", " "))


def heading(metric: str) -> str:
    """For a table's column: "ΔF1 ↓", "loss variance (nats²) ↓"."""
    unit = UNITS.get(plain(metric))
    return f"{name(metric)}{f' ({unit})' if unit else ''} {ARROWS[direction(metric)]}"


def axis(metric: str) -> str:
    """For an axis: "validation loss variance (nats², less is better)". The split is that of the metric's prefix."""
    split = SPLITS[metric.partition("_")[0]]
    unit = UNITS.get(plain(metric))
    return f"{split} {name(metric)} ({f'{unit}, ' if unit else ''}{WORDS[direction(metric)]})"
