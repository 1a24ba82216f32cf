"""From validation to test: what was claimed of each point of the front, and what fresh trainings of it showed."""

from analysis import confirmation, labels
from analysis.results import Search
from analysis.table import Table

NOTE = (
    "Claimed: from the validation split, as in the front's table. Test: means of fresh trainings, which chose nothing, "
    "with 95 % intervals of other seeds and other images like these."
)
STEPS = (("claimed", "_half"), ("test", "_test_half"))  # columns of ``confirmation.Confirmed``


def table(search: Search) -> Table:
    """A row a point of the front: claimed → test for each objective, fresh trainings, whether it stands. Raises
    NothingToShow where there are no fresh trainings."""
    confirmed = confirmation.confirmation(search)
    cells = []
    for row in confirmed.rows.to_dict("records"):
        arrows = (
            " → ".join(labels.claim(row[f"{name}_{what}"], row[f"{name}{half}"]) for what, half in STEPS)
            for name in search.objectives
        )
        stands = {True: "yes", False: "no"}.get(row["stands"], labels.ABSENT)
        cells.append((str(row["number"]), labels.METHOD_STYLES[row["method"]].name, *arrows, str(row["fresh"]), stands))
    header = ("trial", "method", *map(labels.heading, search.objectives), "fresh trainings", "stands")
    return Table("The front on the test split", header, tuple(cells), note=" ".join([NOTE, *confirmed.sentences()]))
