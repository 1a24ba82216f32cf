"""SearchOptions: each option of a search, once.

The flags of the command line, ``--config FILE.yaml``, the options in the record, what a resume accepts and the Python
API all derive from it. A value is judged by the same rule wherever it comes from.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from analysis.bounds import constraints
from trainables.config import METHODS, ConfigError, lookup, parse
from trainables.models.backbones import RANDOM
from tune_fairlora import cli
from tune_fairlora.algorithms.scheduler import GRACE_PERIOD, REDUCTION_FACTOR
from tune_fairlora.tracking import tracking_uri as uris

CONFIG_FILE = "config.yaml"  # in a search's folder
SAMPLER_NAMES = ("tpe", "gp", "nsga2", "random", "grid")
SCHEDULER_NAMES = ("moasha", "none")
PREPARE = "tune_fairlora.prepare"
RESEED = 0.25  # of the trials: tests/benchmarks/front_truth.py --rules compares shares
CONFIRM_SEEDS = 3
TIMEOUT = "20 times the longest epoch, at least 10m"
SHARES = "fractions share a GPU, auto: two where they fit and GPUs are few; default: 1 where there is one"

Rule = Callable[[Any], Any]  # the value in its own type; raises ConfigError, or ArgumentTypeError without a name


@dataclass(frozen=True)
class Option:
    """What is to be known of an option besides its name, type and default."""

    group: str
    rule: Rule
    metavar: str | None
    help: str
    choices: tuple[str, ...] = ()
    repeatable: bool = False  # its flag may be given more than once
    resumable: bool = False  # a resume may change it
    once: bool = False  # of one run alone: a resume does not take it over
    kept: bool = True  # in the record's options and in config.yaml
    path: bool = False  # names a file or folder (a space only where it ends in .py)
    logged: bool = False  # among the record's settings, which reports and MLflow read

    def completer(self, **_: object) -> tuple[str, ...]:
        return self.choices


def _one(rule: Callable[[str], object]) -> Rule:
    """``rule`` judges the text of a value, so that 3, "3" and a YAML file's 3 are the same."""

    def judge(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, Real, os.PathLike)):
            raise argparse.ArgumentTypeError(f"one value must be given, but got {value}")
        return rule(str(value))

    return judge


def _seconds(value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        value = f"{value:f}".rstrip("0").rstrip(".") + "s"  # 1e-05 as 0.00001
    return cli.duration(str(value))


def _hyperparameter(name: str) -> Rule:
    def rule(text: str) -> object:
        try:
            return parse(name, text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return _one(rule)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise argparse.ArgumentTypeError(f"true or false must be given, but got {value}")
    return value


def _at_least_2(text: str) -> int:
    if (value := cli.positive_int(text)) < 2:
        raise argparse.ArgumentTypeError(f"at least 2 must be given, but got {value}")
    return value


def _below_1(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"a share of the trials must be given, from 0 to less than 1, but got {text}")
    return value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a name must be given, but it is empty")
    return text


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise argparse.ArgumentTypeError(f"a list must be given, but got {value}")
    return tuple(_TEXT(each) for each in value)


def _names(value: object) -> tuple[str, ...]:
    """Names in a list, or in one text with commas between them."""
    return tuple(name.strip() for name in (value.split(",") if isinstance(value, str) else _texts(value)))


def _settings(value: object) -> tuple[str, ...]:
    """``KEY=VALUE`` each; from Python and YAML also {key: value} or {key: [values to search]}."""
    if not isinstance(value, Mapping):
        return _texts(value)
    lists = {key: each if isinstance(each, (list, tuple)) else [each] for key, each in value.items()}
    return tuple(f"{key}={','.join(map(str, each))}" for key, each in lists.items())


def _constraints(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    constraints(texts)
    return texts


_TEXT, _NATURAL = _one(str), _one(cli.positive_int)


def _option(group: str, default: Any, rule: Rule, metavar: str | None, help: str, **marks: Any) -> Any:
    return dataclasses.field(default=default, metadata={"option": Option(group, rule, metavar, help, **marks)})


_what, _how = partial(_option, "what to search"), partial(_option, "how to search")
_fault, _where = partial(_option, "when something breaks"), partial(_option, "where to run")
_result = partial(_option, "where results go")


def _choice(default: str, names: tuple[str, ...], what: str, help: str) -> Any:
    def rule(name: str) -> str:
        lookup(dict.fromkeys(names), name, what)
        return name

    return _how(default, _one(rule), f"{{{','.join(names)}}}", help, choices=names, logged=True)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of one search, validated: raises ConfigError that names the field. Times are in seconds; a text like
    "1h30m" will do as well. None leaves the choice to the space, to the machine or to the search, as the help says."""

    space: str = _what("", _TEXT, "NAME|FILE.py", "a space by name, or a Python file with SPACE = Space(…)", path=True)
    data: str | None = _what(
        None, _TEXT, "DIR", f"prepared data set ({PREPARE}), or images with metadata.csv", path=True, resumable=True
    )
    weights: str | None = _what(
        None, _TEXT, "FILE", "safetensors or torch file, or: random; default: the hub", path=True, resumable=True
    )
    image_size: int | None = _what(None, _hyperparameter("image_size"), "N", "side of the input image in pixels")
    skip_corrupt: bool = _what(False, _switch, None, "leave out images that cannot be read, and count them")
    allow_overlap: bool = _what(False, _switch, None, "accept a subject or an image in two splits or of two labels")
    methods: tuple[str, ...] | None = _what(None, _names, "A,B", f"of {', '.join(METHODS)}; default: the space's")
    set: tuple[str, ...] = _what(
        (), _settings, "KEY=VALUE", "fix a hyperparameter, or search values with commas; repeatable", repeatable=True
    )
    objectives: tuple[str, ...] | None = _what(
        None, _names, "A,B[,C]", "2 or 3 validation metrics; default: the space's"
    )
    constraint: tuple[str, ...] = _what(
        (), _constraints, '"METRIC>=X"', "keep what breaks it off the front (>= or <=); repeatable", repeatable=True
    )
    trials: int | None = _how(
        None, _NATURAL, "N", "number of trainings, with --seeds of configurations; default: the space's", resumable=True
    )
    epochs: int | None = _how(None, _hyperparameter("epochs"), "N", "epochs of a full trial; default: the space's")
    sampler: str = _choice("tpe", SAMPLER_NAMES, "sampler", "default: %(default)s")
    seed: int = _how(0, _one(cli.seed), "N", "of search and training; default: %(default)s", logged=True)
    seeds: int = _how(1, _NATURAL, "N", "training seeds of each configuration; default: %(default)s", logged=True)
    reseed: float | None = _how(
        None,
        _one(_below_1),
        "X",
        f"share of the trials that trains the front's candidates again; default: {RESEED}, with --seeds 0",
        resumable=True,
    )
    confirm: bool = _how(
        False,
        _switch,
        None,
        "measure the closed search's front on the test split, with fresh trainings; later: --resume NAME --confirm",
        resumable=True,
    )
    confirm_seeds: int = _how(
        CONFIRM_SEEDS,
        _NATURAL,
        "N",
        "--confirm with N fresh trainings each; default: %(default)s",
        resumable=True,
    )
    enqueue: str | None = _how(None, _TEXT, "FILE", "JSON: points to try first, with method and values", path=True)
    scheduler: str = _choice("moasha", SCHEDULER_NAMES, "scheduler", "stop poor trials early; default: %(default)s")
    grace_period: int = _how(
        GRACE_PERIOD, _NATURAL, "N", "epochs before a comparison; default: %(default)s", logged=True
    )
    reduction_factor: int = _how(
        REDUCTION_FACTOR, _one(_at_least_2), "N", "the best 1/N go on; default: %(default)s", logged=True
    )
    time_budget: float | None = _how(
        None, _seconds, "TIME", "end in time (30m, 2h, 90s); --resume goes on", resumable=True, once=True
    )
    max_failures: int = _fault(
        2, _one(cli.count), "N", "how often a trial is tried again; default: %(default)s", resumable=True, logged=True
    )
    trial_timeout: float | None = _fault(
        None, _seconds, "TIME", f"end a trial without a report for so long; default: {TIMEOUT}", resumable=True
    )
    cpus_per_trial: float = _where(
        1.0, _one(cli.positive), "X", "default: 1; or a fraction", resumable=True, logged=True
    )
    gpus_per_trial: float | str | None = _where(None, _one(cli.share), "X|auto", SHARES, resumable=True)
    max_concurrent: int | None = _where(None, _NATURAL, "N", "default: as many as fit", resumable=True, logged=True)
    address: str | None = _where(
        None, _TEXT, "ADDR", "of a Ray cluster (host:port, auto); default: Ray starts here", resumable=True, once=True
    )
    storage: str = _result("runs", _TEXT, "DIR", "default: ./%(default)s; on a cluster, a shared folder", kept=False)
    name: str | None = _result(None, _TEXT, "NAME", "of the folder in DIR; default: space, date and time", kept=False)
    tracking_uri: str = _result(uris.DEFAULT, _TEXT, "URI", "MLflow's; default: %(default)s", resumable=True)
    experiment: str = _result(
        uris.EXPERIMENT, _one(_not_blank), "NAME", "MLflow's; default: %(default)s", resumable=True
    )

    def __post_init__(self) -> None:
        for name, value in checked(vars(self)).items():
            object.__setattr__(self, name, value)
        if not self.space:
            raise ConfigError("`space` is needed: the name of a search space (--list shows them), or a Python file")
        if self.reseed and self.seeds > 1:
            raise ConfigError(
                f"`reseed` {self.reseed:g} and `seeds` {self.seeds} say the same twice: with `seeds` every complete "
                "configuration is trained again, so leave one out"
            )
        if self.confirm_seeds != CONFIRM_SEEDS:  # who says how often wants it
            object.__setattr__(self, "confirm", True)

    @property
    def reseeds(self) -> float:
        """The share of the trials that trains candidates again."""
        return self.reseed if self.reseed is not None else RESEED if self.seeds == 1 else 0.0

    def kept(self) -> dict[str, Any]:
        """The options as plain values, for the record and ``config.yaml``: paths and addresses mean the same from any
        folder, and no password is written down."""
        values = {name: getattr(self, name) for name, option in OPTIONS.items() if option.kept}
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = list(value)
            elif OPTIONS[name].path and value and value != RANDOM and (name != "space" or value.endswith(".py")):
                values[name] = str(Path(value).resolve())
        return values | {"tracking_uri": uris.without_password(uris.absolute_uri(self.tracking_uri))}

    def write(self, path: Path) -> None:
        """Write what ``read_config`` reads: with it the search can be repeated."""
        head = "# python -m tune_fairlora.search --config FILE repeats this search; flags override the file.\n"
        path.write_text(head + yaml.safe_dump(self.kept(), sort_keys=False, allow_unicode=True), encoding="utf-8")


OPTIONS: dict[str, Option] = {spec.name: spec.metadata["option"] for spec in dataclasses.fields(SearchOptions)}
DEFAULTS: dict[str, Any] = {spec.name: spec.default for spec in dataclasses.fields(SearchOptions)}


def checked(given: Mapping[str, object]) -> dict[str, Any]:
    """``given`` by name, each value in its option's type. Raises ConfigError that names the field and its rule."""
    values = {}
    for name, value in given.items():
        option = lookup(OPTIONS, name, "option")
        if value is None and DEFAULTS[name] is not None:
            raise ConfigError(f"`{name}`: a value must be given, but got none")
        try:
            values[name] = value if value is None else option.rule(value)
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"`{name}`: {error}") from error
    return values


def read_config(path: str) -> dict[str, Any]:
    """The options in a YAML file, by name. Raises ConfigError where it is no mapping of options to values."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} must be a file that can be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} must hold YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold `option: value` lines, but holds {type(content).__name__}")
    return checked({str(name).replace("-", "_"): value for name, value in content.items()})


def add_flags(parser: argparse.ArgumentParser) -> dict[str, argparse._ArgumentGroup]:
    """Give ``parser`` a flag for each option, and --config, which the caller reads (``read_config``). Flags of options
    have no defaults, so that it parses what is given and nothing else.

    Returns the flags' groups by title.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, option in OPTIONS.items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        kind: dict[str, Any] = {"action": "append" if option.repeatable else "store", "metavar": option.metavar}
        flag = groups[option.group].add_argument(
            f"--{name.replace('_', '-')}",
            **({"action": "store_true"} if DEFAULTS[name] is False else kind),
            default=argparse.SUPPRESS,
            help=option.help.replace("%(default)s", str(DEFAULTS[name])),
        )
        if option.choices:
            flag.completer = option.completer  # type: ignore[attr-defined]  # argcomplete reads it
    about = f"options by name, as in a search's {CONFIG_FILE}; flags override them"
    groups["what to search"].add_argument("--config", metavar="FILE.yaml", help=about)
    return groups
