"""Paired differences: against classical tests and numbers worked by hand, and in searches without an effect."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_rel

from analysis import configurations
from analysis.claims import DRAWS, image_shifts
from analysis.estimates import estimate, membership, seed_draws
from analysis.figures import penalty_effect
from analysis.paired import Paired
from analysis.predictions import Predictions
from analysis.results import Search
from tests.analysis.handmade import search, trial
from trainables import logits

RANKS = (1, 2, 4, 8, 16, 32)


def grid(plain: list[list[float]], *fair: list[list[float]]) -> tuple[Search, list[tuple[str, str]]]:
    """A search with a configuration a rank: LoRA with the accuracies ``plain``, one a seed, and FairLoRA once for each
    of ``fair``; and all its pairs."""
    rows, first = [], {}
    for lam, table in enumerate([plain, *fair]):
        for rank, values in zip(RANKS, table):
            for value in values:
                method = {"method": "fairlora", "lam": 0.1 * lam} if lam else {"method": "lora"}
                again = {"repeats": first[lam, rank]} if (lam, rank) in first else {"repeats": math.nan}
                first.setdefault((lam, rank), len(rows))
                rows.append(trial(len(rows), rank=rank, val_accuracy=value, **method, **again))
    record = search(*rows)
    return with_seeds(record), pairs_of(record)


def with_seeds(record: Search) -> Search:
    """Training seeds count from 0 in each configuration, as in a search of the product's."""
    record.trials["seed"] = record.trials.groupby("config_id").cumcount()
    return record


def pairs_of(record: Search) -> list[tuple[str, str]]:
    rows = record.trials.drop_duplicates("config_id")
    plain = rows[rows["method"] == "lora"].set_index("rank")["config_id"]
    fair = rows[rows["method"] == "fairlora"]
    return [(config, plain[rank]) for config, rank in zip(fair["config_id"], fair["rank"])]


def test_pairs_with_one_seed_each_are_the_t_test_of_their_differences():
    differences = [0.01, 0.03, -0.01, 0.04, 0.02]
    record, pairs = grid([[0.7]] * 5, [[0.7 + d] for d in differences])
    made, test = Paired(record, "val_accuracy", pairs).difference(pairs), ttest_1samp(differences, 0)
    assert made.value == pytest.approx(0.018) and made.pairs == 5 and not made.with_images
    assert made.p == pytest.approx(test.pvalue)
    assert made.value + made.half == pytest.approx(test.confidence_interval().high)


def test_one_pair_with_many_seeds_is_the_paired_t_test():
    plain, fair = [0.70, 0.80, 0.75, 0.78, 0.71], [0.71, 0.83, 0.75, 0.80, 0.73]
    record, pairs = grid([plain], [fair])
    made, test = Paired(record, "val_accuracy", pairs).difference(pairs), ttest_rel(fair, plain)
    assert made.p == pytest.approx(test.pvalue)
    assert made.value - made.half == pytest.approx(test.confidence_interval().low)


def test_partners_of_one_configuration_are_one_difference():
    """Two ranks, each with two λ: a shared training must not count twice."""
    record, pairs = grid(
        [[0.70, 0.72, 0.71, 0.73], [0.60]], [[0.72, 0.73, 0.75, 0.74], [0.64]], [[0.74, 0.75, 0.71, 0.78], [0.66]]
    )
    paired = Paired(record, "val_accuracy", pairs)
    of_seeds = [0.03, 0.02, 0.02, 0.03]  # rank 1: the mean of both λ less the plain one
    within = sum((d - 0.025) ** 2 for d in of_seeds) / 1.5  # in variances of one training: 1 + 1/2
    scale = [1.5 / 4, 1.5]  # rank 1 has four seeds
    centre = (0.025 / scale[0] + 0.05 / scale[1]) / (1 / scale[0] + 1 / scale[1])
    between = (0.025 - centre) ** 2 / scale[0] + (0.05 - centre) ** 2 / scale[1]
    assert paired.freedom == 3 + 1 and paired.noise == pytest.approx((within + between) / 4)
    made = paired.difference(pairs)
    error = math.sqrt(paired.noise * sum(scale)) / 2
    assert made.value == pytest.approx((0.025 + 0.05) / 2) and made.pairs == 4
    assert made.half == pytest.approx(student.ppf(0.975, 4) * error)
    assert made.p == pytest.approx(2 * student.sf(made.value / error, 4))


def test_only_common_seeds_are_compared():
    record, pairs = grid([[0.70, 0.80]], [[0.72, 0.84, 0.99, 0.99]])
    made = Paired(record, "val_accuracy", pairs).difference(pairs)
    assert made.value == pytest.approx(0.03)


def test_where_pairs_say_little_of_seeds_repeated_trainings_of_others_do():
    record, pairs = grid([[0.70], [0.70, 0.74], [0.80, 0.81, 0.82]], [[0.73]])
    made = Paired(record, "val_accuracy", pairs).difference(pairs)
    noise = (2 * 0.02**2 + 2 * 0.01**2) / 3
    assert made.half == pytest.approx(student.ppf(0.975, 3) * math.sqrt(2 * noise))


@pytest.mark.parametrize("fair", [[[0.73]], [[0.73], [0.74]]])  # one pair, two pairs: no degree of freedom, one
def test_too_little_gives_a_difference_without_an_interval(fair):
    record, pairs = grid([[0.70], [0.70]], fair)
    made = Paired(record, "val_accuracy", pairs).difference(pairs)
    assert made.value > 0 and np.isnan([made.half, made.p]).all()


def test_equal_trainings_and_no_pairs_have_no_p():
    record, pairs = grid([[0.7]] * 6, [[0.75]] * 6)
    made = Paired(record, "val_accuracy", pairs)
    assert np.isnan(made.difference(pairs).p) and made.difference(pairs).value == pytest.approx(0.05)
    nothing = made.difference([])
    assert np.isnan(nothing.value) and nothing.pairs == 0


def test_what_both_say_of_the_images_cancels_and_the_rest_widens_the_interval(tmp_path):
    """Both models are right about the first half of the images. The fair ones get the third quarter right, too: they
    gain on a quarter of the images, so that the gain's variance over other images is .25 · .75 / n."""
    n = 400
    label, group = np.arange(n) % 2, np.arange(n) % 2
    logits.keep_images(tmp_path, label, group)
    fair = [[0.75 + d] for d in (0.02, -0.01, 0.00, 0.01, -0.02)]
    record, pairs = grid([[0.5]] * 5, fair)
    record = replace(record, folder=tmp_path)
    alone = Paired(record, "val_accuracy", pairs).difference(pairs)
    for row in record.trials.to_dict("records"):
        right = np.arange(n) < (300 if row["method"] == "fairlora" else 200)
        table = logits.half(3.0 * np.eye(2)[np.where(right, label, 1 - label)])
        logits.save(tmp_path, row["number"], table)
        assert Predictions(table, label, group, 2).metrics["val_accuracy"] == right.mean()
    record = replace(record)  # what was read of the search before is not read again
    made = Paired(record, "val_accuracy", pairs).difference(pairs)
    seeds, images = np.var([f[0] for f in fair], ddof=1) / 5, 0.25 * 0.75 / n
    moved = np.mean([image_shifts(record, i)["val_accuracy"] for i in range(5, 10)], axis=0)
    moved -= np.mean([image_shifts(record, i)["val_accuracy"] for i in range(5)], axis=0)
    assert moved.var() == pytest.approx(images, rel=5 * math.sqrt(2 / DRAWS))
    error = math.sqrt(seeds + moved.var())
    freedom = 4 * (1 + moved.var() / seeds) ** 2
    assert made.with_images and not alone.with_images and made.value == alone.value == pytest.approx(0.25)
    assert made.half == pytest.approx(student.ppf(0.975, freedom) * error)
    logits.drop(tmp_path, 3)
    fewer = Paired(replace(record), "val_accuracy", pairs).difference(pairs)
    assert not fewer.with_images and fewer.half == pytest.approx(alone.half)


# ------------------------------------------------------------------------------------------------ whole searches

NOISE, SPREAD = np.array([0.011, 0.05]), np.array([0.03, 0.05])  # accuracy and ΔF1, over seeds and configurations
EXPLORED, REPEATED = 18, 6
FIRST = [  # a search begins so, and its rungs stop none of the first four
    {"method": "lora", "lr": 5e-3},
    {"method": "fairlora", "lr": 5e-3, "lam": 1.0},
    {"method": "fft", "lr": 1e-3},
    {"method": "fairfft", "lr": 1e-3, "lam": 1.0},
    {"method": "lora", "lr": 5e-3, "rank": 0},
]


def drawn_search(seed: int, effect: float = 0.0) -> Search:
    """24 trials as a search makes them: the first points, random ones, of which the less accurate half is stopped, and
    the likeliest members of the front trained again. The penalty lowers ΔF1 by ``effect``, and changes nothing else."""
    rng = np.random.default_rng([15, seed])
    configs = [dict(each) for each in FIRST]
    while len(configs) < EXPLORED:
        method = str(rng.choice(["lora", "fairlora", "fft", "fairfft"]))
        rank = {"rank": int(rng.choice(RANKS))} if "lora" in method else {}
        lam = {"lam": float(10 ** rng.uniform(-2, 1))} if "fair" in method else {}
        configs.append({"method": method, "lr": float(10 ** rng.uniform(-3, -1.8)), **rank, **lam})
    worth: dict[tuple, np.ndarray] = {}  # equal in all but the penalty: equally good
    for each in configs:
        key = each["method"].removeprefix("fair"), each.get("rank", 8), each["lr"]
        worth.setdefault(key, np.array([0.75, 0.28]) + rng.normal(size=2) * SPREAD)
        each["true"] = worth[key] - [0, effect * ("lam" in each)]
    shared = rng.normal(size=2) * NOISE  # these validation images are easier, or harder, for all
    early = np.array([each["true"][0] for each in configs]) + rng.normal(size=EXPLORED) * 0.015
    complete = (early >= np.median(early)) | (np.arange(EXPLORED) < 4)

    def measured(config: int) -> np.ndarray:
        return configs[config]["true"] + shared + rng.normal(size=2) * NOISE

    values = [[measured(i)] if complete[i] else [] for i in range(EXPLORED)]
    order = [*range(EXPLORED)]
    for number in range(REPEATED):
        able = [i for i in range(EXPLORED) if values[i]]
        counts = np.array([len(values[i]) for i in able])
        trainings = np.concatenate([values[i] for i in able]) * [-1, 1]
        made = estimate(trainings, np.repeat(np.arange(len(able)), counts))
        chance = membership(seed_draws(made.mean, made.error, 20, seed=number))
        chosen = able[int(np.argmax(chance / counts))]
        values[chosen].append(measured(chosen))
        order.append(chosen)
    places, rows = [0] * EXPLORED, []
    for number, i in enumerate(order):
        accuracy, delta = values[i][places[i]] if values[i] else (math.nan, math.nan)
        places[i] += 1
        status = "complete" if values[i] else "stopped"
        hyperparameters = {name: value for name, value in configs[i].items() if name != "true"}
        again = {"repeats": math.nan if number < EXPLORED else i}
        rows.append(trial(number, status=status, val_accuracy=accuracy, val_delta_f1=delta, **again, **hyperparameters))
    return with_seeds(search(*rows))


def verdicts(searches: int, effect: float = 0.0) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {"val_accuracy": [], "val_delta_f1": []}
    for seed in range(searches):
        for name, difference in penalty_effect.effects(drawn_search(seed, effect)).items():
            texts[name].append(penalty_effect.verdict(name, difference))
    return texts


def claimed(texts: list[str]) -> int:
    return sum("λ > 0 is better" in text or "λ > 0 is worse" in text for text in texts)


def test_of_200_searches_without_an_effect_at_most_5_percent_and_luck_say_one():
    for texts in verdicts(200).values():
        assert not any("cannot be told" in text for text in texts)
        assert claimed(texts) <= 10 + 2 * math.sqrt(200 * 0.05 * 0.95)


def test_best_against_best_would_find_an_effect_where_there_is_none():
    """Why it is not tested: in how many searches the fairest with the penalty and the fairest without it are a seed's
    standard deviation apart."""
    far = 0
    for seed in range(100):
        rows = configurations.complete(drawn_search(seed))
        best = rows.groupby(rows["lam"].notna())["val_delta_f1"].min()
        far += abs(best[True] - best[False]) > NOISE[1]
    assert 20 <= far <= 50


def test_a_large_effect_is_said_and_only_where_it_is():
    found = verdicts(40, effect=0.25)
    assert sum("In ΔF1, λ > 0 is better" in text for text in found["val_delta_f1"]) >= 30
    assert claimed(found["val_accuracy"]) <= 2 + 2 * math.sqrt(40 * 0.05 * 0.95)
