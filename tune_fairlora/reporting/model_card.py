"""The model card of an export, made of ``model.json`` and ``metrics.json``.

Names of classes, groups and files come from the user's data: in the card they are escaped for Markdown and HTML.
"""

import json
from typing import Any

from analysis.labels import claim, number
from analysis.table import markdown, pipes
from trainables.config import METHODS
from trainables.files import plain
from trainables.metrics import COUNTS, METRICS

SUMMARY = (
    *("accuracy", "adjusted_accuracy", "macro_f1", "min_f1", "delta_f1"),
    *("worst_cell_accuracy", "min_group_accuracy", "delta_group_accuracy", "eod_max"),
)
FRONT_ROWS = 20

Facts = dict[str, Any]  # what a JSON file holds: ``model.json``, ``metrics.json``, a search's settings


def text(facts: Facts, results: Facts, settings: Facts) -> str:
    """The model card (README.md) of an export with ``model.json`` ``facts`` and ``metrics.json`` ``results``."""
    sections = [
        _front_matter(facts, results, settings),
        _heading(facts, results),
        _use(facts),
        _training(facts, settings),
        _place(results),
        _results(results),
        _limits(facts, results),
        _licences(facts, settings),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: Facts, results: Facts, settings: Facts) -> str:
    """YAML, of which JSON is a part: no name can break out of its quotes."""
    metrics = results["validation"]["metrics"]
    measured = [{"type": n, "value": metrics[n], "name": f"validation {n}"} for n in SUMMARY if metrics[n] is not None]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "imagefolder", "name": _shown_name(settings), "split": "validation"},
        "metrics": measured,
    }
    content = {
        "library_name": "timm" if facts["weights"] == "whole" else "peft",
        "pipeline_tag": "image-classification",
        "license": "unknown",
        "tags": ["image-classification", "timm", "fairness", facts["config"]["method"]],
        "model-index": [{"name": _title(facts), "results": [result]}],
    }
    if facts["base"]["kind"] == "hub":
        content["base_model"] = facts["base"]["repository"]
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    text = "\n".join(["---", *lines, "---"])
    return text.replace("<", "\\u003c")  # a reader who knows no front matter would take it for HTML


def _title(facts: Facts) -> str:
    return plain(f"{facts['search']['name']}, trial {facts['trial']['number']}")


def _shown_name(settings: Facts) -> str:
    name, source = settings.get("data", ""), settings.get("data_notes", {}).get("source", "")
    return plain(f"{name} ({source})" if source else name)


def _heading(facts: Facts, results: Facts) -> str:
    front = results["front"]
    names = " and ".join(f"`{name}`" for name in front["objectives"])
    place = "on its front: no other is better in one of them without being worse in another"
    if not front["member"]:
        place = "off its front: another is at least as good in each of them and better in one"
    method = facts["config"]["method"]
    return (
        f"# {markdown(_title(facts))}\n\n"
        f"An image classifier for {len(facts['classes'])} classes: {facts['backbone']} fine-tuned by `{method}` "
        f"({METHODS[method].adapts}). It is one of {front['trials']} trials of a search over {names}, and stands "
        f"{place}." + (f" Chosen by rule: {markdown(results['chosen'])}." if results["chosen"] else "")
    )


USE = """## Use

```python
from PIL import Image
from load import load, preprocess  # in this folder

model = load({base_weights})
probability = model(preprocess(Image.open("photo.jpg"))[None]).softmax(dim=-1)[0]
```

`load.py` needs torch, timm, safetensors and Pillow; `model.json` has the class names in the order of the
probabilities. `python -m tune_fairlora.predict --model DIR photo.jpg` does the same. An image is turned upright (EXIF),
{cut}cut to its centre square, resized to {sizes} px (bicubic) and normalised."""


def _use(facts: Facts) -> str:
    preprocessing = facts["preprocessing"]
    cut = f"freed of its lowest {preprocessing['banner']} rows, " if preprocessing["banner"] else ""
    given = 'base_weights="FILE"' if facts["base"]["kind"] == "file" and facts["weights"] == "adapter" else ""
    text = USE.format(base_weights=given, cut=cut, sizes=" and then ".join(map(str, preprocessing["sizes"])))
    if facts["weights"] != "whole":
        files = _adapter(facts)
    elif facts["architecture"]["zeroshot"]:
        files = "`model.safetensors` holds every weight; its normalised head is none of timm's: `load.py` builds it."
    else:
        files = f"`model.safetensors` holds every weight: `{_created(facts, '')}` takes it strictly."
    return f"{text}\n\n{files}"


def _adapter(facts: Facts) -> str:
    """What the adapter belongs to, and how peft loads it."""
    base, architecture = facts["base"], facts["architecture"]
    where = {
        "included": "in `base.safetensors`, as they are found nowhere else",
        "file": f"in the file that the search was given, {markdown(base['file'])} (sha256 {base['sha256']})",
        "hub": f"{base['file']} of {base.get('repository')} on the Hugging Face hub, from where `load.py` takes them",
    }[base["kind"]]
    by_timm = base.get("repository") == f"timm/{facts['pretrained']}"
    by_timm = by_timm and not architecture["zeroshot"] and "window_size" not in architecture["options"]
    body = f" `base()` is `{_created(facts, ', pretrained=True')}`." if by_timm else ""
    return (
        "The folder holds an adapter and the head in peft's format; the pretrained weights under it are "
        f"{where}. With peft, `PeftModel.from_pretrained(base(), DIR)` loads it, with `base` of `load.py`.{body}"
    )


def _created(facts: Facts, pretrained: str) -> str:
    shapes = facts["architecture"]["options"].items()
    options = "".join(f", {k}={tuple(v) if isinstance(v, list) else v}" for k, v in shapes)
    name = facts["pretrained"] if pretrained else facts["architecture"]["name"]
    return f'timm.create_model("{name}"{pretrained}, num_classes={len(facts["classes"])}{options})'


def _training(facts: Facts, settings: Facts) -> str:
    pretrained = markdown(facts["pretrained"] or "made for the demo, from handwritten digits")
    if facts["base"]["kind"] == "file":
        pretrained += f", as {markdown(facts['base']['file'])}"
    rows = [
        ("data", markdown(_shown_name(settings))),
        ("images, all splits", markdown(settings.get("data_notes", {}).get("images", "unknown"))),
        ("fingerprint of the data", markdown(settings["data_fingerprint"])),
        ("classes", ", ".join(map(markdown, facts["classes"]))),
        ("sensitive groups", ", ".join(map(markdown, facts["groups"]))),
        ("pretrained weights", pretrained),
        ("trained", f"{facts['trained_parameters']:,} parameters; seed {facts['trial']['seed']}"),
        ("hyperparameters", ", ".join(f"`{k}={v}`" for k, v in facts["config"].items() if k != "seed")),
    ]
    return "## Trained on\n\n" + pipes(("", ""), rows)


def _place(results: Facts) -> str:
    front = results["front"]
    heads = (
        "trials",
        *(f"`{name}` ({'up' if d == 'maximize' else 'down'})" for name, d in front["objectives"].items()),
    )
    rows = [
        (
            ", ".join(map(str, point["trials"])),
            *(claim(point[name], point[f"{name}_half"]) for name in front["objectives"]),
            number(point["chance"]),
        )
        for point in front["points"][:FRONT_ROWS]
    ]
    more = len(front["points"]) - len(rows)
    about = (
        f"The front of {front['complete']} trials that came to their end, validation split. Claimed are means over "
        "training seeds, drawn towards what such configurations have, with 95 % intervals of other seeds and images; "
        "the last column says how probably each point would be on the front again."
    )
    verdict = "\n\n" + " ".join(results["claimed"]["verdict"]) if results["claimed"]["verdict"] else ""
    rest = f"\n\n… and {more} more." if more else ""
    return f"## Place on the front\n\n{about}\n\n{pipes((*heads, 'on the front'), rows)}{rest}{verdict}"


def _results(results: Facts) -> str:
    validation, test, refit = results["validation"], results["test"], results["test_of_a_refit_on_train_and_val"]
    note = "These numbers chose the model, so they are better than what new images will give."
    parts = [f"## Validation split\n\n{note}", _metrics(validation["metrics"])]
    parts += [_by(name, validation[f"by_{name}"]) for name in ("group", "class")]
    titles = ("Test split", "Test split, another model: trained anew on train and val")
    for title, measured in zip(titles, (test, refit)):
        if measured:
            parts += [f"## {title}", _metrics(measured["metrics"]), _by("group", measured["by_group"])]
    parts += _fresh(results)
    if not (test or refit or results["test_of_fresh_trainings"]):
        parts.append("No test split was measured (`python -m tune_fairlora.search --resume NAME --confirm`).")
    return "\n\n".join(filter(None, parts))


def _fresh(results: Facts) -> list[str]:
    """What fresh trainings of this configuration showed on the test split; nothing where there were none."""
    fresh = results["test_of_fresh_trainings"]
    if not fresh:
        return []
    values = (f"`{name}` {claim(each['value'], each['half'])}" for name, each in fresh["objectives"].items())
    failed = f"; {fresh['failed']} more collapsed or diverged" if fresh["failed"] else ""
    place = {True: "It stands on the front there.", False: "It does not stand on the front there."}
    sentences = [
        f"{fresh['trainings']} fresh trainings of this configuration{failed}: {', '.join(values)} (95 % intervals).",
        place.get(fresh["stands"], ""),
        *fresh["verdict"],
    ]
    return ["## Test split, fresh trainings", " ".join(filter(None, sentences))]


def _metrics(metrics: dict[str, float | None]) -> str:
    rows = [
        (f"`{name}`", number(metrics[name]), METRICS[name].direction, METRICS[name].formula.replace("|", "\\|"))
        for name in SUMMARY
    ]
    return pipes(("metric", "value", "better", "formula"), rows)


def _by(kind: str, rows: list[dict[str, Any]]) -> str:
    """A table by class or group; "" where there is none."""
    cells = [[markdown(row["name"]), *(number(value) for key, value in row.items() if key != "name")] for row in rows]
    return pipes((kind, *(key for key in rows[0] if key != "name")), cells) if rows else ""


def _limits(facts: Facts, results: Facts) -> str:
    counts = {name: results["validation"]["metrics"].get(name) for name in COUNTS}
    lines = [
        "It names one of its classes whatever it is shown, and was measured on images like those it was trained on.",
        f"One training run with seed {facts['trial']['seed']}; other seeds give other numbers.",
    ]
    claimed = results["claimed"]
    if claimed["trainings"]:
        values = (f"`{name}` {claim(each['value'], each['half'])}" for name, each in claimed["objectives"].items())
        trainings = f"{claimed['trainings']} training{'s' if claimed['trainings'] > 1 else ''}"
        lines.append(f"What is claimed of its configuration, from {trainings}: {', '.join(values)}.")
    for name, shown in results["by_chance"].items():
        lines.append(
            f"By chance alone an evenly right model as accurate shows `{name}` {shown} on the validation images."
        )
    if counts["min_class_count"] is not None:
        sizes = [f"{counts[name]:.0f}" for name in ("min_class_count", "min_group_count", "min_cell_count")]
        smallest = f"{sizes[0]} images, the smallest group {sizes[1]}, the smallest class in a group {sizes[2]}"
        lines.append(
            f"The smallest class has {smallest} in validation: gaps between so few are uncertain, and so is the "
            "accuracy of the worst class in a group (`worst_cell_accuracy`)."
        )
    if len(facts["groups"]) < 2:
        lines.append("The data name no sensitive groups: nothing is known of how even it serves people or scenes.")
    if facts["pretrained"] == "random":
        lines.append("It started from an untrained network (`--weights random`): a trial of the machinery, no model.")
    if facts["preprocessing"]["banner"]:
        lines.append(f"The lowest {facts['preprocessing']['banner']} rows of every image are cut off (a banner there).")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licences(facts: Facts, settings: Facts) -> str:
    from trainables.prepare.sources import SOURCES

    name = settings.get("data", "")
    row = SOURCES.get(name)
    licence = f"{row.licence}{f' ({row.home})' if row.home else ''}" if row else "BSD-3-Clause (scikit-learn)"
    if name == "folder":
        licence = "the user's own images: whoever passes the model on must say on what terms"
    return (
        f"## Licences\n\nData: {licence}. Pretrained weights: their publisher's. `load.py`: Apache-2.0. What that "
        "means for the trained weights is for whoever publishes them to say; the `license` above is theirs to fill in."
    )
