"""What a report says of the search itself: its settings, and what its numbers cannot say."""

from html import escape
from pathlib import Path
from typing import Any

from analysis.results import Search
from analysis.table import Table, to_html
from tune_fairlora.reporting import page


def settings(search: Search) -> str:
    """HTML: what was searched, how, and on what."""
    s = search.settings
    weights = Path(s.get("weights_file") or "the hub").name
    rows = {
        "search": s["name"],
        "space": s.get("space"),
        "methods": ", ".join(s.get("methods", ())),
        "fixed": ", ".join(f"{name} {value}" for name, value in s.get("fixed", {}).items()),
        "searched": "; ".join(f"{name}: {_searched(entry)}" for name, entry in s.get("searched", {}).items()),
        "objectives": ", ".join(s["objectives"]),
        "constraints": ", ".join(s.get("constraints", ())) or "none",
        "data": f"{s.get('data')}, content hash {s.get('data_fingerprint')}, {s.get('image_size')} px",
        f"classes ({len(s.get('classes', ()))})": ", ".join(s.get("classes", ())),
        f"groups ({len(s.get('groups', ()))})": ", ".join(s.get("groups", ())),
        "weights": f"{weights}, hash {s.get('weights')}",
        "sampler, scheduler": f"{s.get('sampler')}, {s.get('scheduler')}",
        "seed": f"{s.get('seed')}; training seeds a configuration: {search.seeds}",
        "trials planned": s.get("trials"),
        "code version": s.get("code_version"),
    }
    shown = tuple((name, str(value)) for name, value in rows.items() if value)
    return page.of_texts(to_html(Table("Settings", ("what", "value"), shown)))


def _searched(entry: dict[str, Any]) -> str:
    """A distribution as the record holds it (``study.distribution_data``), or one a method, in words: "4 | 8 | 16",
    "0.001 … 0.01 (log)"."""
    if "attributes" not in entry:
        return ", ".join(f"{method} {_searched(one)}" for method, one in entry.items())
    attributes = entry["attributes"]
    if "choices" in attributes:
        return " | ".join(map(str, attributes["choices"]))
    return f"{attributes['low']} … {attributes['high']}{' (log)' if attributes['log'] else ''}"


def limits(search: Search) -> str:
    """HTML: what a reader must not take from the numbers, with the counts they rest on."""
    nouns = {"val_min_class_count": "class", "val_min_group_count": "group", "val_min_cell_count": "class in a group"}
    counts = search.trials.filter([*nouns, "val_empty_cells"]).max()
    texts = [
        "The front's trials were chosen by the validation split, so that their numbers there are better than they "
        "will be on other images; python -m tune_fairlora.confirm measures them on the test split.",
        *(
            f"The smallest {noun} has {counts[name]:.0f} validation images: one image moves its accuracy by "
            f"{100 / counts[name]:.1f} points."
            for name, noun in nouns.items()
            if counts.get(name, 0) > 0
        ),
    ]
    if (empty := counts.get("val_empty_cells", 0)) > 0:
        texts.append(f"{empty:.0f} combinations of class and group have no validation image: nothing is known of them.")
    texts.append(
        "The best- and the worst-served of many classes are extremes of noisy numbers: an even model has a ΔF1, too."
    )
    if search.seeds == 1:
        texts.append("Each configuration was trained with one seed: a small difference may be the seed's.")
    if search.settings.get("weights_file") == "random":
        texts.append("The networks began untrained (weights random): nothing here speaks of pretrained models.")
    if (search.trials["status"] == "stopped").any():
        texts.append("Trials that were stopped early might have come on the front.")
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>\n"
