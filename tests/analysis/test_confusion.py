"""The confusion matrix: shares of the true class, names that hold anything, a cell for every pair of classes."""

import time
from html.parser import HTMLParser

import numpy as np
import pytest

from analysis.html.confusion import page, shares
from tests.processes import patience


class Read(HTMLParser):
    """The elements of a page by tag, their attributes and their texts."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_data(self, data):
        self.texts.append((self.open[-1], data))

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for each, attributes in self.found if each == tag]


def test_rows_are_shares_of_the_true_class_and_a_class_without_images_has_none():
    share = shares([[3, 1, 0], [0, 0, 0], [1, 1, 2]])
    assert share[0].tolist() == [0.75, 0.25, 0] and share[2].tolist() == [0.25, 0.25, 0.5]
    assert np.isnan(share[1]).all()


def test_a_cell_says_whose_it_is_and_how_many():
    read = Read(page([[3, 1], [0, 0]], ["cat", "dog"], "000 lora r8"))
    cells = [a for a in read.attributes("td") if "title" in a]
    assert [a["title"] for a in cells] == ["cat as cat: 3 (75%)", "cat as dog: 1 (25%)"]
    assert "rgba(8,81,156,0.75);color:#fff" in cells[0]["style"] and "color:#fff" not in cells[1]["style"]
    assert [text for tag, text in read.texts if tag == "td"] == ["3", "1"]
    assert [a.get("class") for a in read.attributes("tr")] == [None, None, "none"]
    assert ("h1", "000 lora r8, validation split: true class (rows) by predicted class") in read.texts


@pytest.mark.parametrize("count", (2, 10, 40, 100))
def test_any_number_of_classes_with_any_name_is_shown(count):
    names = [f'<script>alert({i})</script>" onload="x' for i in range(count)]
    read = Read(page(np.eye(count, dtype=int) * 5, names, "<b>"))
    assert not read.attributes("script") and not read.attributes("b")
    assert [a["title"] for a in read.attributes("th")] == names * 2
    assert len(read.attributes("td")) == 1 + count * count
    assert [text for tag, text in read.texts if tag == "td"] == (["5"] * count if count <= 16 else [])


def test_it_costs_next_to_nothing():
    """A search makes one for each trial while others train. matplotlib took 0.1 s."""
    confusion, names = np.eye(10, dtype=int) * 90 + 3, [str(i) for i in range(10)]
    page(confusion, names, "warm")
    start = time.process_time()
    for _ in range(20):
        page(confusion, names, "000 lora r8")
    assert (time.process_time() - start) / 20 < patience(0.02)
