"""With the penalty less without: equal configurations where there are any, and the best of each where not."""

import math

import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from analysis.figures import penalty_effect
from analysis.results import NothingToShow, Search
from analysis.table import to_markdown
from tests.analysis.handmade import search, trial


def test_configurations_that_differ_in_the_penalty_alone_are_paired():
    record = search(
        trial(0, "lora", rank=8, val_accuracy=0.7, val_delta_f1=0.3),
        trial(1, "fairlora", rank=8, lam=0.1, val_accuracy=0.72, val_delta_f1=0.2),
        trial(2, "fairlora", rank=8, lam=1.0, groups="sensitive", val_accuracy=0.65, val_delta_f1=0.1),
        trial(3, "fairlora", rank=4, lam=1.0, val_accuracy=0.99),  # another rank
        trial(4, "fairlora", rank=8, lam=1.0, lr=0.5, val_accuracy=0.99),  # another learning rate
        trial(5, "fairlora", rank=8, lam=10.0, status="stopped"),
    )
    compared = penalty_effect.pairs(record)
    assert compared[["fair", "plain"]].to_numpy().tolist() == [[1, 0], [2, 0]]
    assert compared["val_accuracy"].tolist() == pytest.approx([0.02, -0.05])
    assert compared["val_delta_f1"].tolist() == pytest.approx([-0.1, -0.2])
    assert set(compared["kind"]) == {penalty_effect.EQUAL} and compared["val_accuracy_half"].isna().all()


def test_without_such_pairs_the_best_stands_against_the_best_and_says_so():
    record = search(
        trial(0, "fft", lr=1e-4, val_accuracy=0.6),
        trial(1, "fft", lr=2e-4, val_accuracy=0.7),
        trial(2, "fairfft", lr=3e-4, lam=1.0, val_accuracy=0.8),
        trial(3, "fairfft", lr=4e-4, lam=0.1, val_accuracy=0.75),
    )
    (row,) = penalty_effect.pairs(record).to_dict("records")
    assert (row["fair"], row["plain"], row["kind"]) == (2, 1, penalty_effect.BEST)
    assert row["val_accuracy"] == pytest.approx(0.1) and row["title"] == "FairFFT λ1 less FFT"
    assert "best against best" in to_markdown(penalty_effect.table(record))


def test_seeds_are_compared_one_by_one():
    accuracies = {0: 0.70, 1: 0.80, 2: 0.71, 3: 0.83, 4: 0.5, 5: 0.5, 6: 0.6, 7: 0.66}
    kinds = {0: "fft", 1: "fft", 2: "fairfft", 3: "fairfft", 4: "lora", 5: "lora", 6: "fairlora", 7: "fairlora"}
    record = search(*(trial(n, kinds[n], val_accuracy=a) for n, a in accuracies.items()), seeds=2)
    rows = penalty_effect.pairs(record).set_index("method")
    assert rows.loc["fairfft", "val_accuracy"] == pytest.approx(0.02)
    assert rows.loc["fairlora", "val_accuracy"] == pytest.approx(0.13)
    # The pairs' seeds and the pairs themselves have three degrees of freedom: too few. All configurations' seeds have
    # four, the pairs themselves one.
    squares = (0.1**2 + 0.12**2 + 0.06**2) / 2 + 0.11**2 / 2
    half = student.ppf(0.975, 5) * math.sqrt(squares / 5)
    assert rows["val_accuracy_half"].tolist() == pytest.approx([half, half])


def grid(gains: list[float], **columns) -> Search:
    """LoRA and FairLoRA at a rank each, with ΔF1 lower by ``gains``."""
    rows = []
    for rank, gain in enumerate(gains, 1):
        rows += [trial(len(rows), "lora", rank=rank, val_delta_f1=0.5, **columns)]
        rows += [trial(len(rows), "fairlora", rank=rank, val_delta_f1=0.5 - gain, **columns)]
    return search(*rows)


def test_the_sentence_says_what_the_pairs_can_tell():
    def sentence(gains: list[float]) -> str:
        return penalty_effect.verdict("val_delta_f1", penalty_effect.effects(grid(gains))["val_delta_f1"])

    gains = [0.1, 0.12, 0.11, 0.13, 0.09]
    half = student.ppf(0.975, 4) * math.sqrt(0.00025 / 5)
    facts = f"0.1100 ± {half:.4f} with other seeds, p = {ttest_1samp(gains, 0).pvalue:.2g}, 5 pairs)."
    assert sentence(gains) == f"In ΔF1, λ > 0 is better than λ = 0 here (difference −{facts}"
    assert sentence([-g for g in gains]) == f"In ΔF1, λ > 0 is worse than λ = 0 here (difference +{facts}"
    assert "In ΔF1, λ > 0 is not shown to be better than λ = 0 here (" in sentence([0.1, -0.1, 0.05, -0.05, 0.01])
    assert "cannot be told whether λ > 0 is better than λ = 0 here with 1 pair (difference −0.1000)" in sentence([0.1])
    apart = search(trial(0, "lora", lr=1e-3), trial(1, "fairlora", lr=2e-3))
    for name, difference in penalty_effect.effects(apart).items():
        assert "no two configurations" in penalty_effect.verdict(name, difference)
        assert penalty_effect.verdict(name, difference) in penalty_effect.table(apart).note


def test_the_table_has_intervals_and_the_sentences():
    table = penalty_effect.table(grid([0.1, 0.12, 0.11, 0.13, 0.09]))
    assert table.rows[0][4].startswith("−0.1000 ± 0.0") and (0, 4) in table.best
    assert "In ΔF1, λ > 0 is better" in table.note and "In accuracy, it cannot be told" in table.note


def test_the_table_marks_what_is_better_and_the_figure_which_side_is():
    record = search(
        trial(0, "lora", val_accuracy=0.7, val_delta_f1=0.3),
        trial(1, "fairlora", val_accuracy=0.6, val_delta_f1=0.2),
    )
    table = penalty_effect.table(record)
    assert table.rows[0][3:5] == ("−0.1000", "−0.1000")
    assert (0, 4) in table.best and (0, 3) not in table.best
    labels = [ax.get_xlabel() for ax in penalty_effect.figure(record).axes[:2]]
    assert labels == [
        "validation accuracy,\nfair less plain (right is better)",
        "validation ΔF1,\nfair less plain (left is better)",
    ]


def test_nothing_to_compare_is_said():
    for show in (penalty_effect.figure, penalty_effect.table):
        with pytest.raises(NothingToShow, match="no complete configuration with the penalty stands beside one"):
            show(search(trial(0, "lora"), trial(1, "fairfft")))
