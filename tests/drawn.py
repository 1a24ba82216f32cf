"""Small distributions in their authors' exact layouts, with JPEG files whose content carries the class.

Each ``draw_…(folder, seed)`` makes the official folder inside ``folder`` and returns it. The class is a shape in a
colour, the group is the ground it stands on: a small model can learn both. ``archive`` packs such a folder.
"""

import csv
import shutil
from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

REGIONS = ("Africa", "Americas", "EastAsia", "Europe", "SouthEastAsia", "WestAsia")
COUNTRIES = ("Nigeria", "Colombia", "Japan", "United Kingdom", "Indonesia", "Turkey")
SHAPES = ("disc", "square", "triangle", "ring", "bar")
# (split, y, place): images; training cells as lopsided as the official ones, the places balanced in val and test
BIRDS = {(0, 0, 0): 90, (0, 0, 1): 6, (0, 1, 0): 4, (0, 1, 1): 40}
BIRDS |= {(split, y, place): 15 for split in (1, 2) for y in (0, 1) for place in (0, 1)}
MAKERS = ("Airbus", "Boeing", "British Aerospace", "Cessna", "Embraer", "Fokker", "Lockheed Corporation")
MAKERS += ("McDonnell Douglas", "Tupolev", "de Havilland")
NO_RACE = ("39_1_20170116174525125", "61_1_20170109142408075", "61_1_20170109150557335")
ODD_NAMES = ("24_0_1_20170116220224657 .jpg.chip.jpg", "55_0_0_20170116232725357jpg.chip.jpg")
AGES = (0, 5, 10, 11, 20, 25, 35, 45, 55, 65, 75, 80, 81, 99, 116)


def archive(folder: Path, path: Path) -> Path:
    """Pack ``folder`` with its own name on top as ``path``, which ends with .tar.gz, .tar or .zip."""
    kind = {"gz": "gztar", "tar": "tar", "zip": "zip"}[path.name.rpartition(".")[2]]
    made = Path(shutil.make_archive(str(path) + ".part", kind, folder.parent, folder.name))
    return made.rename(path)


def draw_geode(folder: Path, seed: int = 0, each: int = 1) -> Path:
    """``geode``: index.csv and images/, 40 objects x 6 regions x ``each`` photographs of 80 x 64 pixels."""
    root, rng, rows = folder / "geode", np.random.default_rng(seed), []
    for label in range(40):
        for group, region in enumerate(REGIONS):
            for number in range(each):
                name = f"{region}/{COUNTRIES[group].replace(' ', '_')}_{_object(label)}_{number}.jpg"
                _save(root / "images" / name, _photo((80, 64), label, group, rng))
                rows.append((name, _object(label), region, COUNTRIES[group]))
    return _table(root / "index.csv", ("file_path", "object", "region", "ip_country"), _shuffled(rows, rng))


def _object(label: int) -> str:
    return f"{('red', 'gold', 'lime', 'teal', 'sky', 'blue', 'pink', 'wine')[label // 5]}_{SHAPES[label % 5]}"


def draw_waterbirds(folder: Path, seed: int = 0) -> Path:
    """``waterbird_complete95_forest2water2``: metadata.csv and 260 images of 72 x 64 pixels, 95 % as expected."""
    root, rng, rows = folder / "waterbird_complete95_forest2water2", np.random.default_rng(seed), []
    cells = _shuffled([cell for cell, count in BIRDS.items() for _ in range(count)], rng)
    for number, (split, y, place) in enumerate(cells, 1):
        kind = ("Cardinal", "Laysan_Albatross")[y]
        name = f"{(17, 2)[y]:03d}.{kind}/{kind}_{number:04d}_{rng.integers(10**6)}.jpg"
        _save(root / name, _photo((72, 64), (12, 1)[y], (0, 3)[place], rng))
        rows.append((number, name, y, split, place, f"/{('b/bamboo_forest', 'o/ocean')[place]}/{number:08d}.jpg"))
    columns = ("img_id", "img_filename", "y", "split", "place", "place_filename")
    return _table(root / "metadata.csv", columns, rows)


def variants() -> list[str]:
    """100 variants in the order of variants.txt, ten in turn for each of MAKERS: slashes, spaces, prefixes."""
    forms = ("{0}-{1}00", "{0} {1}00", "{0}/A-{1}", "{0} {1}-B", "{0}{1} Mk II")
    makers = enumerate(maker.split()[-1] for maker in MAKERS)
    return [forms[i % 5].format(maker[: 1 + i % 3].upper(), 10 * m + i) for m, maker in makers for i in range(10)]


def draw_aircraft(folder: Path, seed: int = 0, each: int = 2) -> Path:
    """``fgvc-aircraft-2013b``: ``each`` images of 96 x 84 pixels a variant and split, 20 of them a banner."""
    data, rng, names = folder / "fgvc-aircraft-2013b" / "data", np.random.default_rng(seed), variants()
    ids = [f"{i:07d}" for i in rng.choice(2_000_000, len(names) * 3 * each, replace=False)]
    tables: dict[str, list[tuple[str, int]]] = {}
    for split in ("train", "val", "test"):
        tables[split] = [(ids.pop(), label) for label in range(len(names)) for _ in range(each)]
        for image, label in tables[split]:
            _save(data / "images" / f"{image}.jpg", _banner(_photo((96, 64), label % 40, label // 20, rng), rng))
    tables["trainval"] = sorted(tables["train"] + tables["val"])
    _lines(data / "variants.txt", names)
    _lines(data / "manufacturers.txt", MAKERS)
    for split, table in tables.items():
        _lines(data / f"images_variant_{split}.txt", [f"{image} {names[label]}" for image, label in table])
        _lines(data / f"images_manufacturer_{split}.txt", [f"{image} {MAKERS[label // 10]}" for image, label in table])
    return data.parent


def draw_utkface(folder: Path, seed: int = 0, each: int = 2) -> Path:
    """``UTKFace``: 300 images of 64 x 64 pixels and the known oddities; ages at and beside the bins' edges.

    Gender is the shape, age the colour, race the ground: nobody is portrayed.
    """
    root, rng = folder / "UTKFace", np.random.default_rng(seed)
    people = [(a, g, r) for a in AGES for g in range(2) for r in range(5) for _ in range(each)]
    for number, (age, gender, race) in enumerate(people):
        name = f"{age}_{gender}_{race}_20170116{number:09d}.jpg.chip.jpg"
        _save(root / name, _photo((64, 64), 5 * min(max(age - 1, 0) // 10, 7) + 2 * gender, race, rng))
    for name in (*ODD_NAMES, *(f"{stem}.jpg.chip.jpg" for stem in NO_RACE)):
        _save(root / name, _photo((64, 64), 0, 0, rng))
    for name in (".DS_Store", "Thumbs.db"):
        (root / name).write_bytes(b"\0\0\0\1Bud1")
    return root


def _photo(size: tuple[int, int], label: int, group: int, rng: np.random.Generator) -> Image.Image:
    """Shape ``label % 5`` in hue ``label // 5`` (of 8) somewhere on the striped ground ``group`` (of 6)."""
    width, height = size
    down, right = np.mgrid[:height, :width]
    wave = 20 * np.sin((down if group % 2 else right) / (2 + group) + rng.uniform(0, 6))
    pixels = 60 + 25 * (group // 2) + wave[..., None] + rng.normal(0, 8, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    side = min(size) // 2
    left, top = (int(rng.integers(length // 8, length - side - length // 8 + 1)) for length in size)
    colour = tuple(int(255 * c) for c in hsv_to_rgb(label // 5 / 8, 0.85, 1))
    _shape(ImageDraw.Draw(image), SHAPES[label % 5], (left, top, left + side, top + side), colour)
    return image


def _shape(pen: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], colour: tuple) -> None:
    left, top, right, bottom = box
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=(right - left) // 5)
    elif shape == "triangle":
        pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=colour)
    else:
        third = (bottom - top) // 3 if shape == "bar" else 0
        pen.rectangle((left, top + third, right, bottom - third), fill=colour)


def _banner(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with 20 rows below: black and white, as of a name in print."""
    print_ = 255 * (rng.random((20, image.width, 1)) < 0.3).repeat(3, axis=2)
    return Image.fromarray(np.concatenate([np.asarray(image), print_.astype(np.uint8)]))


def _shuffled(rows: list, rng: np.random.Generator) -> list:
    return [rows[i] for i in rng.permutation(len(rows))]


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=90)


def _table(path: Path, columns: tuple, rows: list[tuple]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path.parent


def _lines(path: Path, lines) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
