"""What other training seeds would show of the front: the luck of being chosen taken off, with intervals."""

from analysis import configurations, labels
from analysis.results import NothingToShow, Search
from analysis.table import Table
from analysis.tables import front

NOTE = (
    "One training says little of its configuration, and whoever stands on a front had luck, too. So means are drawn "
    "towards what such configurations have, the more the fewer seeds they have. The 95 % intervals are of other seeds "
    "on the same images."
)


def cells(search: Search) -> dict[int, list[str]]:
    """By the number of each configuration on the front, in the front's order: each objective and its interval. Raises
    NothingToShow where too few configurations are complete, or none is on the front."""
    rows, names = configurations.expected(search).set_index("number"), search.objectives
    if rows.empty:
        raise NothingToShow(
            f"fewer than {configurations.FEW} configurations are complete, too few to tell of other seeds"
        )
    members = [number for number in front.members(search).get("number", ()) if number in rows.index]
    if not members:
        raise NothingToShow("no configuration is on the front")
    return {n: [f"{rows.at[n, name]:.3f} ± {rows.at[n, f'{name}_half']:.3f}" for name in names] for n in members}


def table(search: Search) -> Table:
    """A row a configuration of ``cells``, a column an objective."""
    rows = tuple((str(number), *values) for number, values in cells(search).items())
    return Table("What other seeds would show", ("trial", *map(labels.heading, search.objectives)), rows, note=NOTE)
