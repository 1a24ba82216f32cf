"""What tables and figures call things: metrics with direction, unit and split; methods, and the style of each."""

from dataclasses import dataclass

from trainables.metrics import METRICS

HYPERPARAMETERS = {"lam": "λ", "lr": "learning rate"}  # the others are called what they are
# "Worst group" in the literature is the worst class x attribute cell.
WORST = {
    "worst_cell_accuracy": "worst group accuracy",
    "min_group_accuracy": "worst attribute accuracy",
    "min_group_f1": "worst attribute F1",
}
ARROWS = {"maximize": "↑", "minimize": "↓"}
BETTER = {"maximize": "more is better", "minimize": "less is better"}
SPLITS = {"val": "validation", "test": "test"}
ABSENT = "–"


@dataclass(frozen=True)
class MethodStyle:
    """How every table and figure shows one method. Shape, dashes and hatch tell apart what colour-blind readers and
    grey print do not."""

    name: str  # as the papers write it
    color: str  # of Okabe and Ito's palette: black, #E69F00, #56B4E9 and #F0E442 are left
    marker: str  # any of matplotlib's that is filled
    dashes: tuple[float, ...] = ()  # lengths of ink and gap in turn; none is a solid line
    hatch: str = ""  # of bars
    plain: str | None = None  # the method that it is compared with: the same without the fairness penalty


# A row for each of METHODS, in the order of METHODS.
METHOD_STYLES = {
    "lora": MethodStyle("LoRA", "#0072B2", "o", dashes=(1, 1.5)),
    "fairlora": MethodStyle("FairLoRA", "#D55E00", "D", hatch="///", plain="lora"),
    "fft": MethodStyle("FFT", "#009E73", "s", dashes=(6, 2), hatch=".."),
    "fairfft": MethodStyle("FairFFT", "#CC79A7", "^", dashes=(6, 2, 1, 2), hatch="xx", plain="fft"),
}


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
    """ "val_delta_f1" → "ΔF1", "val_min_group_accuracy" → "worst attribute accuracy"."""
    words = WORST.get(plain(metric), plain(metric)).replace("_", " ").replace("f1", "F1").replace("eod", "EOD")
    return words.replace("delta ", "Δ")


def hyperparameter(name: str) -> str:
    """ "lam" → "λ", "weight_decay" → "weight decay"."""
    return HYPERPARAMETERS.get(name, name.replace("_", " "))


def unit(metric: str) -> str:
    """ "nats", "nats²", or "" of a rate."""
    return METRICS[plain(metric)].unit if plain(metric) in METRICS else ""


def heading(metric: str) -> str:
    """For a table's column: "ΔF1 ↓", "loss variance (nats²) ↓"."""
    return f"{with_unit(metric)} {ARROWS[direction(metric)]}"


def with_unit(metric: str) -> str:
    """ "ΔF1", "loss variance (nats²)"."""
    return f"{name(metric)} ({unit(metric)})" if unit(metric) else name(metric)


def axis(metric: str) -> str:
    """For an axis: "validation loss variance (nats², less is better)". The split is that of the metric's prefix."""
    facts = filter(None, [unit(metric), BETTER[direction(metric)]])
    return f"{SPLITS[metric.partition('_')[0]]} {name(metric)} ({', '.join(facts)})"


def number(value: object, digits: str = ".4f") -> str:
    """A metric with four decimals, or what ``digits`` says; counts and texts as they are; "–" where there is none."""
    if value is None or value != value:  # NaN
        return ABSENT
    return format(value, digits) if isinstance(value, float) else str(value)


def claim(value: float | None, half: float | None, digits: int = 3) -> str:
    """ "0.784 ± 0.019", or the value alone where nothing is known of its luck."""
    if value is None or half is None or value != value or half != half:  # NaN
        return number(value)
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."
