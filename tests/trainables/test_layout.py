"""Finding a distribution's root, and keeping its files in it."""

import os

import pytest

from tests import drawn
from trainables.config import ConfigError
from trainables.prepare import aircraft, geode, utkface, waterbirds
from trainables.prepare.listing import find_root, refuse_escapes, shown

READERS = {
    "geode": (drawn.draw_geode, geode.read),
    "waterbirds": (drawn.draw_waterbirds, waterbirds.read),
    "aircraft": (drawn.draw_aircraft, aircraft.read),
    "utkface": (drawn.draw_utkface, lambda source: utkface.read(source, "gender")),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_the_root_or_a_folder_above_it_is_taken(tmp_path, name, levels):
    draw, read = READERS[name]
    root = draw(tmp_path / "a" / "b")
    listing = read([root, root.parent, root.parent.parent][levels])
    assert len(listing.files) > 200 and all(file.is_file() for file in listing.files)
    assert all(file.is_relative_to(root) for file in listing.files)


@pytest.mark.parametrize("name", READERS)
def test_none_three_levels_up_and_two_beside_each_other_are_refused(tmp_path, name):
    draw, read = READERS[name]
    with pytest.raises(ConfigError, match=r"must hold .*, but does not: pass the folder"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="must be a folder, but"):
        read(tmp_path / "none")
    root = draw(tmp_path / "a" / "b")
    with pytest.raises(ConfigError, match=r"must hold .*, but does not"):
        read(tmp_path)
    root.parent.rename(tmp_path / "a" / "c")
    draw(tmp_path / "a" / "b")
    with pytest.raises(ConfigError, match=r"must hold one .*, but has 2: pass one of .*/a/b.*, .*/a/c"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", READERS)
def test_a_link_that_leads_out_is_refused(tmp_path, name):
    draw, read = READERS[name]
    root = draw(tmp_path / "in")
    victim = next(iter(sorted(root.rglob("*.jpg"))))
    outside = victim.rename(tmp_path / "outside.jpg")
    victim.symlink_to(outside)
    with pytest.raises(ConfigError, match=r"must lie inside .*, but a link leads .* out of it"):
        read(root)
    victim.unlink()
    victim.symlink_to(sorted(root.rglob("*.jpg"))[-1])  # inside: theirs to decide
    assert victim in read(root).files


@pytest.mark.parametrize("name", ["geode", "waterbirds", "aircraft"])
def test_a_linked_folder_that_leads_out_is_refused(tmp_path, name):
    draw, read = READERS[name]
    root = draw(tmp_path / "in")
    folder = next(iter(sorted(root.rglob("*.jpg")))).parent
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match=r"must lie inside .*, but a link leads .* out of it"):
        read(root)


def test_the_source_itself_may_be_a_link(tmp_path):
    (tmp_path / "link").symlink_to(drawn.draw_waterbirds(tmp_path / "disk"))
    assert len(waterbirds.read(tmp_path / "link").files) == 260


def test_the_nearest_level_counts_and_links_and_hidden_folders_are_not_entered(tmp_path):
    for folder in ("a/b", ".hidden", "c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a/b/mark").touch()
    (tmp_path / ".hidden/mark").touch()
    (tmp_path / "c/linked").symlink_to(tmp_path / "a/b")
    assert find_root(tmp_path, "mark") == tmp_path / "a/b"
    (tmp_path / "mark").touch()
    assert find_root(tmp_path, "mark") == tmp_path


def test_missing_files_loops_and_odd_names_are_no_escape(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = ["gone.jpg", "loop", "loop/x.jpg", "x" * 300, os.fsdecode(b"\xff.jpg"), "a\nb"]
    refuse_escapes(tmp_path, [tmp_path / name for name in names])


def test_a_note_is_printable_and_short():
    assert shown(["a\nb", os.fsdecode(b"\xff")]) == ["a\\nb", "\\udcff"]
    assert len(shown(["x"] * 5000)) == 101 and shown(["x"] * 5000)[-1] == "… and 4900 more"


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.tar"])
def test_archives_are_drawn_with_the_folder_on_top(tmp_path, name):
    import shutil

    root = drawn.draw_waterbirds(tmp_path)
    shutil.unpack_archive(drawn.archive(root, tmp_path / name), tmp_path / "out", filter=None)
    assert len(waterbirds.read(tmp_path / "out").files) == 260


@pytest.mark.parametrize("name", READERS)
def test_drawing_is_seeded(tmp_path, name):
    draw, _ = READERS[name]
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        root = draw(tmp_path / folder, seed)
        contents.append({file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()})
    assert contents[0] == contents[1] != contents[2]
