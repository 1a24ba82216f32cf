"""The confusion matrix: shares of the true class, names that hold anything, a size that grows with the classes."""

import io

import numpy as np
import pytest

from analysis.confusion import confusion_figure, shares


def test_rows_are_shares_of_the_true_class_and_a_class_without_images_has_none():
    share = shares([[3, 1, 0], [0, 0, 0], [1, 1, 2]])
    assert share[0].tolist() == [0.75, 0.25, 0] and share[2].tolist() == [0.25, 0.25, 0.5]
    assert np.isnan(share[1]).all()


@pytest.mark.parametrize("count", (2, 10, 40, 100))
def test_any_number_of_classes_with_any_name_is_drawn(count):
    names = [f"$\\frac{{{i}$ <b>&_^" for i in range(count)]  # what matplotlib would take for broken mathematics
    figure = confusion_figure(np.eye(count, dtype=int) * 5, names, "000 lora $x$")
    target = io.BytesIO()
    figure.savefig(target, format="png")
    width, height = figure.get_size_inches()
    assert target.getvalue().startswith(b"\x89PNG") and 2 < width < 14 and 2 < height < 14
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == (["5"] * count if count <= 16 else [])
