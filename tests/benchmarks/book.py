"""What `bench.py` has measured, kept beside its table: what one run had no time for is measured by the next."""

import json
import subprocess
import time
from pathlib import Path

from tests.benchmarks.against_glue import ROOT
from tests.benchmarks.rows import Row, markdown
from trainables.files import replace_atomically


class Book:
    """The rows of each part, with the day and the version of the code that they are from.

    ``out`` gets the table, and the file of the same name that ends in .json the same for the next run.
    """

    def __init__(self, out: Path, code: str | None = None):
        self.out, self.file, self.code = out, out.with_suffix(".json"), code or version()
        self.parts: dict[str, dict] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def order(self, names: list[str]) -> list[str]:
        """Parts that this code has not measured come first; else as they are."""
        return sorted(names, key=lambda name: self.parts.get(name, {}).get("code") == self.code)

    def put(self, name: str, rows: list[Row], whole: bool = True) -> None:
        """Note a part's rows, each time on disk at once. One that was left out now keeps what it had before, and so
        does one that was cut off if this code has measured it ``whole``."""
        left_out = all(row.ours.startswith("skipped") for row in rows)
        before, code = self.parts.get(name), self.code if whole and not left_out else None
        if before and (left_out or (not whole and before["code"] == self.code)):
            return
        when = f"{time.strftime('%Y-%m-%d %H:%M')}, {self.code}"
        self.parts[name] = {"code": code, "rows": [row._replace(when=when) for row in rows]}
        replace_atomically(self.file, lambda file: file.write_text(json.dumps(self.parts, indent=1)))
        replace_atomically(self.out, lambda file: file.write_text(self.table()))

    def table(self, names: list[str] | None = None) -> str:
        """All parts, or those of ``names``."""
        kept = self.parts if names is None else [name for name in names if name in self.parts]
        return markdown(Row(*row) for name in kept for row in self.parts[name]["rows"])


def version() -> str:
    """The commit, and whether the files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
