"""Space: a search space as data. METHODS says which hyperparameters exist for a method; a space need not repeat it."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from trainables.config import FIELDS, METHODS, ConfigError, TrainConfig, absent_for, lookup, parse
from trainables.metrics import objective

T = TypeVar("T")
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Point = dict[str, Any]  # field -> value
# A field that only its switch gives an effect.
SWITCHES = {"penalty_decay": "penalty_center", "per_group": "balance", "cache_prefix": "last_blocks"}
NOT_SEARCHED = {"method", "data", "backbone", "image_size", "seed"}


def by_method(lora: T, full: T) -> dict[str, T]:
    """One value for the methods that train LoRA adapters, another for those that train every weight."""
    return {name: lora if method.lora else full for name, method in METHODS.items()}


def for_full(value: T) -> dict[str, T]:
    """A value for the methods that train every weight; those that train LoRA adapters have none."""
    return {name: value for name, method in METHODS.items() if not method.lora}


@dataclass(frozen=True)
class Space:
    """One search space.

    ``fixed``: values of TrainConfig fields that differ from its defaults. ``search``: field -> Optuna distribution, or
    field -> {method: distribution} where methods want different ranges (``by_method``), or do not all search it
    (``for_full``). ``first``: field -> value, or
    {method: value}, the point at which each method is tried first; a field that is not in it starts at TrainConfig's
    default. ``method`` is sampled always, before the rest. ``grid``: field -> values, or {method: values}, that
    ``--sampler grid`` combines; a searched field that is not in it stays at its first point, ``method`` in it restricts
    the methods; an empty grid combines every choice there is. ``objectives`` are validation metrics, with or without
    ``val_``. Raises ConfigError at construction where a name or value is wrong.
    """

    name: str
    about: str
    fixed: Mapping[str, Any]
    search: Mapping[str, Distribution | Mapping[str, Distribution]]
    first: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = tuple(METHODS)
    objectives: tuple[str, ...] = ("val_accuracy", "val_delta_f1")
    trials: int = 24

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(map(objective, self.objectives)))
        for name in (*self.fixed, *self.search, *self.first, *self.grid):
            lookup(FIELDS, name, "hyperparameter")
        if both := sorted(self.fixed.keys() & self.search.keys()):
            raise ConfigError(f"a hyperparameter is fixed or searched, but space {self.name} has both for {both}")
        if self.fixed.get("alpha_mode") == "2r" and "alpha" in {**self.fixed, **self.search}:
            raise ConfigError(f"alpha has no effect while alpha_mode=2r, but space {self.name} has both: leave one out")
        if closed := sorted(self.search.keys() & NOT_SEARCHED):
            raise ConfigError(f"space {self.name} cannot search {closed}: they are the search's own")
        if not 2 <= len(self.objectives) <= 3 or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"space {self.name} must have 2 or 3 different objectives, but has {self.objectives}")
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ConfigError(f"methods must be given once each, but got {', '.join(self.methods) or 'none'}")
        if Path(self.name).name != self.name or not self.name or self.name.startswith("."):
            raise ConfigError(f"a space's name must do as a folder's name, but is {self.name!r}")
        for method in self.methods:
            self._check_values(method)

    def _check_values(self, method: str) -> None:
        """Check every value that a trial could draw against its field's rule now, not in the middle of a search."""
        point = self.first_point(method)
        self.config(point, seed=0)
        for name, distribution in self.distributions(method).items():
            for value in outermost(distribution):
                self.config(point | {name: value}, seed=0)
            for value in _of_method(self.grid.get(name, ()), method):
                if not _contains(distribution, value):
                    raise ConfigError(f"space {self.name} has {name}={value} in its grid, outside of {distribution}")

    def distributions(self, method: str) -> dict[str, Distribution]:
        """The distribution of each field that is searched and exists under ``method``, in the order of ``search``."""
        absent = absent_for(method)
        entries = {name: _of_method(entry, method) for name, entry in self.search.items() if name not in absent}
        return {name: entry for name, entry in entries.items() if entry is not None}

    def distribution(self, name: str, method: str) -> Distribution | None:
        return self.distributions(method).get(name)

    def holds(self, name: str, method: str, value: object) -> bool:
        distribution = self.distribution(name, method)
        return distribution is not None and _contains(distribution, value)

    def parameter(self, name: str, method: str) -> str:
        """The Optuna name of a field. Methods with one distribution share it, so that they learn from each other."""
        entry = self.search[name]
        if not isinstance(entry, Mapping):
            return name
        peers = [m for m in self.methods if entry.get(m) == entry[method] and name not in absent_for(m)]
        return f"{name}:{'+'.join(peers)}"

    def suggest(self, trial: BaseTrial, seed: int) -> TrainConfig:
        """The configuration that ``trial`` draws; ``method`` comes first and decides which others are drawn."""
        method = trial.suggest_categorical("method", self.methods)
        values: Point = {"method": method}
        for name, distribution in self.distributions(method).items():
            values[name] = _draw(trial, self.parameter(name, method), distribution)
        return self.config(values, seed)

    def config(self, values: Mapping[str, Any], seed: int) -> TrainConfig:
        """``values`` over the space's fixed values over TrainConfig's defaults."""
        return TrainConfig(**{**self.fixed, **values, "seed": seed})

    def first_point(self, method: str) -> Point:
        """The point at which ``method`` is tried first: ``method`` and every searched field that exists."""
        point: Point = {"method": method}
        for name, distribution in self.distributions(method).items():
            value = point[name] = _of_method(self.first.get(name, FIELDS[name].default), method)
            if not _contains(distribution, value):
                raise ConfigError(f"space {self.name} starts {method} at {name}={value}, outside of {distribution}")
        return point

    def starts(self) -> list[Point]:
        """The points that are tried before the sampler has a say, under Optuna's names for ``study.enqueue_trial``.

        Each method at its first point; then, where the space has it, the floor that every method must beat: rank 0,
        the head alone.
        """
        points = [self.first_point(method) for method in self.methods]
        if "lora" in self.methods and self.holds("rank", "lora", 0):
            points.append(self.first_point("lora") | {"rank": 0})
        return [self.params(point) for point in points]

    def grid_points(self) -> list[Point]:
        """Every point of the space's grid, method by method. Raises ConfigError where a hyperparameter is continuous
        and no grid is given: a grid cannot choose its values."""
        methods = [method for method in self.methods if method in self.grid.get("method", self.methods)]
        if not methods:
            only = ", ".join(self.grid["method"])
            raise ConfigError(f"the grid of space {self.name} has only {only}: add one of them")
        points: dict[str, Point] = {}  # by configuration: at rank 0, for example, every alpha gives the same one
        for method in methods:
            first = self.first_point(method)
            axes: dict[str, Any] = {}
            for name, distribution in self.distributions(method).items():
                if self.grid:
                    axes[name] = _of_method(self.grid.get(name, (first[name],)), method)
                elif isinstance(distribution, CategoricalDistribution):
                    axes[name] = distribution.choices
                else:
                    why = f"a grid needs finite choices, but {name} is continuous"
                    raise ConfigError(f"{why}: pin it with --set {name}=…")
            for values in itertools.product(*axes.values()):
                point = {"method": method, **dict(zip(axes, values))}
                points.setdefault(self.config(point, 0).config_id, point)
        return list(points.values())

    def params(self, point: Mapping[str, Any]) -> Point:
        """A point under Optuna's names."""
        method = point["method"]
        return {name if name == "method" else self.parameter(name, method): value for name, value in point.items()}

    def with_changes(
        self, settings: Mapping[str, str], methods: tuple[str, ...] | None = None, **fixed: Any
    ) -> "Space":
        """The space with fields pinned, so not searched: ``settings`` as text (``--set``), ``fixed`` as values.

        A setting with commas, "8,16,32", is searched over these values alone.
        """
        for name in settings:
            if name in ("method", "seed"):
                raise ConfigError(f"{name} has an option of its own (--methods, --seed), but got --set {name}=…")
        choices = {
            name: tuple(parse(name, part.strip()) for part in text.split(","))
            for name, text in settings.items()
            if "," in text
        }
        for name, values in choices.items():
            if len(set(values)) < len(values):
                raise ConfigError(f"values to search must differ, but got --set {name}={settings[name]}")
        pinned = {name: parse(name, text) for name, text in settings.items() if name not in choices} | fixed
        methods = self.methods if methods is None else methods
        if not methods:
            raise ConfigError("`methods` must name at least one method, but got none")
        absent = set.intersection(*(absent_for(method) for method in methods))
        for name in (*pinned, *choices):
            if name in absent:
                raise ConfigError(f"{', '.join(methods)} must have what is set, but none of them has {name}")
        left = {"alpha"} if pinned.get("alpha_mode") == "2r" else set()  # 2r sets alpha itself
        search = {name: entry for name, entry in self.search.items() if name not in pinned.keys() | left}
        grid = {name: entry for name, entry in self.grid.items() if name not in pinned}
        changed = dataclasses.replace(
            self,
            fixed={name: value for name, value in self.fixed.items() if name not in choices.keys() | left} | pinned,
            search=search | {name: CategoricalDistribution(values) for name, values in choices.items()},
            first={**self.first, **{name: self._first_of(name, values) for name, values in choices.items()}},
            grid=grid | choices if self.grid else {},
            methods=methods,
        )
        configs = [changed.config(changed.first_point(method), 0) for method in methods]
        for name in pinned.keys() & SWITCHES.keys():
            switch = SWITCHES[name]
            if switch not in changed.search and not any(name in config.hyperparameters() for config in configs):
                value = getattr(configs[0], switch)
                raise ConfigError(f"{name} has no effect while {switch}={value}: set that as well")
        return changed

    def _first_of(self, name: str, values: tuple[Any, ...]) -> Point:
        """By method, where a search over ``values`` alone starts: where it did before if that is among them."""
        entry = self.fixed.get(name, self.first.get(name, FIELDS[name].default))
        before = {method: _of_method(entry, method) for method in self.methods}
        return {method: value if value in values else values[0] for method, value in before.items()}


def outermost(distribution: Distribution) -> tuple[Any, ...]:
    """The choices of a distribution, or its two ends."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    return (distribution.low, distribution.high)


def _of_method(entry: Any, method: str) -> Any:
    """An entry that holds for all methods, or the method's own in a mapping (None if it has none)."""
    return entry.get(method) if isinstance(entry, Mapping) else entry


def _draw(trial: BaseTrial, name: str, distribution: Distribution) -> Any:
    """Optuna has one public method for each kind of distribution, with the distribution's own fields as arguments."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    suggest: Any = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _contains(distribution: Distribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high


def from_file(path: Path) -> Space:
    """The Space called ``SPACE`` in a user's Python file. Raises ConfigError with the file's own error in one line.

    The file is the user's program and runs with the user's rights, like any script that is started by name.
    """
    if not path.is_file():
        raise ConfigError(f"--space {path} must be a file, but does not exist")
    module = ModuleType(f"user_space_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    sys.path.append(str(path.resolve().parent))  # the file's neighbours, behind everything of ours
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ in the user's folder
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
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
    """Each method's first point, with each head that it may have: a search starts once these are known to work."""
    for method in space.methods:
        point = space.first_point(method)
        head = space.distribution("head", method)
        for name in outermost(head) if head else [space.config(point, 0).head]:
            yield space.config(point | {"head": name}, 0)
