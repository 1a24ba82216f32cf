"""Space: a search space as data. Which hyperparameters exist for a method is METHODS' word, not the space's."""

import dataclasses
import importlib.util
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from trainables.config import FIELDS, METHODS, ConfigError, TrainConfig, absent_for, lookup, parse
from trainables.metrics import OBJECTIVES

# A field that only its switch gives an effect.
SWITCHES = {"penalty_decay": "penalty_center", "per_group": "balance", "cache_prefix": "last_blocks"}
NOT_SEARCHED = ("method", "data", "backbone", "image_size", "seed")


@dataclass(frozen=True)
class Space:
    """One search space.

    ``fixed``: values of TrainConfig fields that differ from its defaults. ``search``: field -> Optuna distribution, or
    field -> {method: distribution} where methods want different ranges. ``first``: field -> value, or {method: value},
    the point at which each method is tried first; a field that is not in it starts at TrainConfig's default.
    ``method`` is sampled always, before the rest. ``grid``: field -> values, or {method: values}, that ``--sampler
    grid`` combines; a searched field that is not in it stays at its first point, ``method`` in it restricts the
    methods; an empty grid combines every choice there is. Raises ConfigError at construction where a name or value is
    wrong.
    """

    name: str
    about: str
    fixed: Mapping[str, object]
    search: Mapping[str, BaseDistribution | Mapping[str, BaseDistribution]]
    first: Mapping[str, object] = field(default_factory=dict)
    grid: Mapping[str, tuple | Mapping[str, tuple]] = field(default_factory=dict)
    methods: tuple[str, ...] = tuple(METHODS)
    objectives: tuple[str, ...] = ("val_accuracy", "val_delta_f1")
    trials: int = 24

    def __post_init__(self):
        self._check_names()
        for method in self.methods:
            lookup(METHODS, method, "method")
            self._check_values(method)

    def _check_names(self) -> None:
        for name in (*self.fixed, *self.search, *self.first, *self.grid):
            lookup(FIELDS, name, "hyperparameter")
        both = set(self.fixed) & set(self.search)
        if both:
            raise ConfigError(
                f"a hyperparameter is fixed or searched, but space {self.name} has both for {sorted(both)}"
            )
        closed = set(NOT_SEARCHED) & set(self.search)
        if closed:
            raise ConfigError(f"space {self.name} cannot search {sorted(closed)}: they are the search's own")
        for name in self.objectives:
            lookup(OBJECTIVES, name, "objective")
        if not 2 <= len(self.objectives) <= 3 or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"space {self.name} must have 2 or 3 different objectives, but has {self.objectives}")
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ConfigError(f"methods must be given once each, but got {', '.join(self.methods) or 'none'}")
        if Path(self.name).name != self.name or not self.name or self.name.startswith("."):
            raise ConfigError(f"a space's name must do as a folder's name, but is {self.name!r}")

    def _check_values(self, method: str) -> None:
        """Every value that a trial could draw keeps its field's rule: here, and not in the middle of a search."""
        point = self.first_point(method)
        self.config(point, seed=0)
        for name in self.search:
            distribution = self.distribution(name, method)
            if distribution is not None:
                for value in outermost(distribution):
                    self.config(point | {name: value}, seed=0)
                self._check_grid(name, method, distribution)

    def _check_grid(self, name: str, method: str, distribution: BaseDistribution) -> None:
        for value in _of_method(self.grid.get(name, ()), method):
            if not _contains(distribution, value):
                raise ConfigError(f"space {self.name} has {name}={value} in its grid, outside of {distribution}")

    def distribution(self, name: str, method: str) -> BaseDistribution | None:
        """The distribution of field ``name`` under ``method``; None where it is not searched or does not exist."""
        entry = self.search.get(name)
        if name in absent_for(method):
            return None
        return entry.get(method) if isinstance(entry, Mapping) else entry

    def holds(self, name: str, method: str, value) -> bool:
        """Whether ``value`` is one that field ``name`` may take under ``method``."""
        distribution = self.distribution(name, method)
        return distribution is not None and _contains(distribution, value)

    def parameter(self, name: str, method: str) -> str:
        """The Optuna name of a field: methods of one distribution share it, so that they learn from each other."""
        entry = self.search[name]
        if not isinstance(entry, Mapping):
            return name
        peers = [m for m in self.methods if entry.get(m) == entry[method] and name not in absent_for(m)]
        return f"{name}:{'+'.join(peers)}"

    def suggest(self, trial: optuna.trial.BaseTrial, seed: int) -> TrainConfig:
        """The configuration that ``trial`` draws; ``method`` comes first and decides which others are drawn."""
        method = trial.suggest_categorical("method", self.methods)
        values: dict[str, object] = {"method": method}
        for name in self.search:
            distribution = self.distribution(name, method)
            if distribution is not None:
                values[name] = _draw(trial, self.parameter(name, method), distribution)
        return self.config(values, seed)

    def config(self, values: Mapping[str, object], seed: int) -> TrainConfig:
        """``values`` over the space's fixed values over TrainConfig's defaults."""
        return TrainConfig(**{**self.fixed, **values, "seed": seed})

    def first_point(self, method: str) -> dict[str, object]:
        """The values at which ``method`` is tried first, by field: ``method`` and every searched field that exists."""
        point: dict[str, object] = {"method": method}
        for name in self.search:
            distribution = self.distribution(name, method)
            if distribution is not None:
                value = _of_method(self.first.get(name, FIELDS[name].default), method)
                if not _contains(distribution, value):
                    raise ConfigError(f"space {self.name} starts {method} at {name}={value}, outside of {distribution}")
                point[name] = value
        return point

    def starts(self) -> list[dict[str, object]]:
        """The points that are tried before the sampler has a say, under Optuna's names for ``study.enqueue_trial``.

        Each method at its first point; then, where the space has it, the floor that every method must beat: rank 0,
        the head alone.
        """
        points = [self.first_point(method) for method in self.methods]
        floor = self.distribution("rank", "lora") if "lora" in self.methods else None
        if floor is not None and _contains(floor, 0):
            points.append(self.first_point("lora") | {"rank": 0})
        return [self.params(point) for point in points]

    def grid_points(self) -> list[dict[str, object]]:
        """Every point of the space's grid, method by method, by field. Raises ConfigError where a hyperparameter is
        continuous and no grid is given: a grid cannot choose its values."""
        methods = [method for method in self.methods if method in self.grid.get("method", self.methods)]
        if not methods:
            raise ConfigError(
                f"the grid of space {self.name} has only {', '.join(self.grid['method'])}: add one of them"
            )
        points: dict[str, dict[str, object]] = {}  # by configuration: at rank 0, say, each alpha is the same one
        for method in methods:
            axes = self._axes(method)
            for values in itertools.product(*axes.values()):
                point = {"method": method, **dict(zip(axes, values))}
                points.setdefault(self.config(point, 0).config_id, point)
        return list(points.values())

    def _axes(self, method: str) -> dict[str, tuple]:
        """Field -> the grid's values of it under ``method``."""
        axes: dict[str, tuple] = {}
        for name in self.search:
            distribution = self.distribution(name, method)
            if distribution is None:
                continue
            if name in self.grid:
                axes[name] = _of_method(self.grid[name], method)
            elif self.grid:
                axes[name] = (self.first_point(method)[name],)
            elif isinstance(distribution, CategoricalDistribution):
                axes[name] = distribution.choices
            else:
                raise ConfigError(f"a grid needs finite choices, but {name} is continuous: pin it with --set {name}=…")
        return axes

    def params(self, point: Mapping[str, object]) -> dict[str, object]:
        """A point by field under Optuna's names."""
        method = point["method"]
        return {name if name == "method" else self.parameter(name, method): value for name, value in point.items()}

    def with_changes(self, settings: Mapping[str, str], methods: tuple[str, ...] | None = None, **fixed) -> "Space":
        """The space with fields pinned, so not searched: ``settings`` as text (``--set``), ``fixed`` as values.

        A setting with commas, "8,16,32", is searched over these values alone.
        """
        for name in settings:
            if name in ("method", "seed"):
                raise ConfigError(f"`{name}` has an option of its own (--methods, --seed), but got --set {name}=…")
        choices = {name: _choices(name, text) for name, text in settings.items() if "," in text}
        pinned = {name: parse(name, text) for name, text in settings.items() if name not in choices} | fixed
        methods = self.methods if methods is None else methods
        absent = set.intersection(*(absent_for(method) for method in methods))
        for name in (*pinned, *choices):
            if name in absent:
                raise ConfigError(f"{', '.join(methods)} must have what is set, but none of them has {name}")
        search = {name: entry for name, entry in self.search.items() if name not in pinned}
        changed = dataclasses.replace(
            self,
            fixed={name: value for name, value in self.fixed.items() if name not in choices} | pinned,
            search=search | {name: CategoricalDistribution(values) for name, values in choices.items()},
            first={**self.first, **{name: self._first_of(name, values) for name, values in choices.items()}},
            grid={name: entry for name, entry in self.grid.items() if name not in pinned} | choices
            if self.grid
            else {},
            methods=methods,
        )
        changed._check_effect(pinned)
        return changed

    def _check_effect(self, names: Iterable[str]) -> None:
        """A setting that could change no trial is a mistake: its switch stands elsewhere."""
        configs = [self.config(self.first_point(method), 0) for method in self.methods]
        for name in set(names) & set(SWITCHES):
            switch = SWITCHES[name]
            if switch not in self.search and not any(name in config.hyperparameters() for config in configs):
                raise ConfigError(
                    f"{name} has no effect while {switch}={getattr(configs[0], switch)}: set that as well"
                )

    def _first_of(self, name: str, values: tuple) -> object:
        """Where the search starts when ``name`` is searched over ``values`` alone: as before if that is among them."""
        before = self.fixed.get(name, self.first.get(name, FIELDS[name].default))
        return {m: _of_method(before, m) if _of_method(before, m) in values else values[0] for m in self.methods}


def outermost(distribution: BaseDistribution) -> tuple:
    """The choices of a distribution, or its two ends."""
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)


def _of_method(entry, method: str):
    """An entry that is one for all methods, or the method's own."""
    return entry[method] if isinstance(entry, Mapping) else entry


def _choices(name: str, text: str) -> tuple:
    values = tuple(parse(name, part.strip()) for part in text.split(","))
    if len(set(values)) < len(values):
        raise ConfigError(f"values to search must differ, but got --set {name}={text}")
    return values


def _draw(trial: optuna.trial.BaseTrial, name: str, distribution: BaseDistribution) -> object:
    """Optuna has one public method for each kind of distribution, with the distribution's own fields as arguments."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _contains(distribution: BaseDistribution, value) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high


def from_file(path: Path) -> Space:
    """The Space called ``SPACE`` in a user's Python file. Raises ConfigError with the file's own error in one line.

    The file is the user's program and runs with the user's rights, as any script that is started by name.
    """
    if not path.is_file():
        raise ConfigError(f"--space {path} must be a file, but does not exist")
    spec = importlib.util.spec_from_file_location(f"user_space_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.append(str(path.resolve().parent))  # the file's neighbours, behind everything of ours
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ in the user's folder
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"--space {path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise ConfigError(f"--space {path} failed while it was read: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = before
        sys.path.pop()
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise ConfigError(f"--space {path} must define SPACE = Space(...), but SPACE is {type(space).__name__}")
    return space


def first_configs(space: Space) -> Iterator[TrainConfig]:
    """What is proved: each method's first point, with each head that it may have."""
    for method in space.methods:
        point = space.first_point(method)
        for head in getattr(space.distribution("head", method), "choices", [space.config(point, 0).head]):
            yield space.config(point | {"head": head}, 0)
