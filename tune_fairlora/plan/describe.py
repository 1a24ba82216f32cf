"""``--describe`` and ``--dry-run``: what a search would do, in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution
from rich.console import Console

from analysis import chance
from search_spaces.space import Space
from trainables.config import METHODS, absent_for
from trainables.metrics import cell_counts
from trainables.models import adapters, create
from tune_fairlora.plan.plan import Plan, resolve_space
from tune_fairlora.plan.resume import to_go_on
from tune_fairlora.plan.search_options import SearchOptions

EXAMPLE_CLASSES = 10  # the digits have as many, and a user's folder that is not given may have any number


def describe(options: SearchOptions) -> int:
    """Print the resolved space: fixed values, distributions, conditions, first points, and what each rank trains."""
    space = resolve_space(options)
    out = Console(highlight=False)
    objectives = ", ".join(space.objectives)
    out.print(
        f"{space.name}: {space.about}\nobjectives: {objectives}; {space.trials} trials by default",
        markup=False,
        soft_wrap=True,
    )
    _section(out, "fixed", {name: str(value) for name, value in space.fixed.items()})
    searched = {name: _text(entry) for name, entry in space.search.items()}
    _section(out, "searched", {"method": " | ".join(space.methods), **searched})
    owners = {name: [m for m in METHODS if name not in absent_for(m)] for name in space.search}
    _section(out, "exists only for", {n: ", ".join(some) for n, some in owners.items() if len(some) < len(METHODS)})
    out.print("\ntried first", style="bold")
    for start in space.starts():
        values = ", ".join(f"{name.partition(':')[0]}={value}" for name, value in start.items())
        out.print(f"  {values}", soft_wrap=True)
    if space.grid:
        axes = ", ".join(f"{name} {_text(entry)}" for name, entry in space.grid.items())
        out.print(f"\n--sampler grid tries {len(space.grid_points())} points: {axes}", markup=False, soft_wrap=True)
    classes = _class_count(space, options.data)
    heading = f"trained parameters, {classes} classes (LoRA totals count the head twice, as peft does)"
    out.print(f"\n{heading}", style="bold")
    for line in parameter_lines(space, classes):
        out.print(f"  {line}", markup=False)
    return 0


def _section(out: Console, title: str, rows: Mapping[str, str]) -> None:
    out.print(f"\n{title}", style="bold")
    for name, text in rows.items():
        out.print(f"  {name:14} {text}", markup=False, soft_wrap=True)


def _text(entry: Any) -> str:
    """Of a distribution or a list of values that holds for all methods, or of each method's own."""
    if isinstance(entry, Mapping):
        return "; ".join(f"{method}: {_text(one)}" for method, one in entry.items())
    if isinstance(entry, (FloatDistribution, IntDistribution)):
        return f"{entry.low:g} … {entry.high:g}{' (log)' if entry.log else ''}"
    return " | ".join(map(str, getattr(entry, "choices", entry)))


def _class_count(space: Space, source: str | None) -> int:
    """The classes of the user's data, else those that the data set is known to have, else ten as an example."""
    from trainables.prepare.listing import read_listing
    from trainables.prepare.prepared import is_prepared, manifest_of
    from trainables.prepare.sources import SOURCES

    name = space.config({}, 0).data
    if source and is_prepared(source):
        return len(manifest_of(source, name)["classes"])
    if source and name == "folder":
        return len(read_listing(Path(source)).classes)
    row = SOURCES.get(name)
    return row.classes if row and row.classes else EXAMPLE_CLASSES


def dry_run(plan: Plan) -> int:
    """Print what ``plan`` would do; data and weights are prepared and checked, the folder is not made."""
    from trainables.data.store import SPLITS, Store

    store, options = Store(plan.store), plan.options
    counts = ", ".join(f"{name} {len(store.rows(name))}" for name in SPLITS)
    rows = {
        "space": plan.space.name,
        "folder": str(plan.folder),
        "data": f"{plan.manifest.name}: {counts} images of {plan.manifest.size} px",
        "classes": f"{len(plan.manifest.classes)}: {', '.join(plan.manifest.classes)}",
        "groups": f"{len(plan.manifest.groups)}: {', '.join(plan.manifest.groups)}",
        "weights": plan.weights or "the hub",
        "objectives": ", ".join((*plan.space.objectives, *plan.options.constraint)),
        "trials": f"{plan.trials}, sampler {options.sampler}, scheduler {options.scheduler}, seed {options.seed}",
        "MLflow": f"{plan.tracking_uri}, experiment {options.experiment}",
    }
    validation = store.rows("val")
    sizes = len(plan.manifest.classes), len(plan.manifest.groups)
    images = cell_counts(store.label[validation], store.group[validation], *sizes)
    rows["smallest"] = ", ".join(f"{what} {n}" for what, n in chance.smallest(images).items()) + " validation images"
    gaps = chance.gaps(plan.space.objectives)
    ranges = {a: chance.by_chance(images, a, gaps, plan.manifest.positive) for a in (0.8, 0.9, 0.97) if gaps}
    parts = []
    for gap in gaps:
        shown = [f"{found[gap]} at accuracy {a:.3f}" for a, found in ranges.items() if gap in found]
        parts += [f"val_{gap} {', '.join(shown)}"] if shown else []
    if parts:
        rows["by chance"] = f"an evenly right model shows {'; '.join(parts)}: mean (5–95 %)"
    out = Console(highlight=False)
    if plan.record is not None:
        again, trials = len(to_go_on(plan.record, options.max_failures)), len(plan.record.trials)
        rows["goes on"] = f"{trials} trials begun, {again} of them not at their end, {plan.trials} in all"
        plan.record.close()
    _section(out, "dry run: nothing was started", rows)
    return 0


def parameter_lines(space: Space, n_classes: int) -> list[str]:
    """What each method and rank trains: "rank 8: 325,672 of 86,155,088 parameters"; computed without weights."""
    import torch

    lines = []
    kinds = ([m for m in space.methods if METHODS[m].lora], [m for m in space.methods if not METHODS[m].lora])
    for methods in filter(None, kinds):  # the penalty trains no weights of its own
        point = space.first_point(methods[0])
        lora, distribution = METHODS[methods[0]].lora, space.distribution("rank", methods[0])
        for rank in getattr(distribution, "choices", None) or [space.config(point, 0).rank]:
            config = space.config(point | ({"rank": rank} if lora else {}), 0)
            with torch.device("meta"):
                model = adapters.adapt(create.skeleton(config, n_classes), config)
            trainable, total = adapters.parameter_counts(model)
            prefix = f"rank {rank}" if lora else "every weight"
            lines.append(f"{', '.join(methods):15} {prefix}: {trainable:,} of {total:,} parameters")
    return lines
