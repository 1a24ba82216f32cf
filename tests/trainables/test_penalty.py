"""The fairness penalty and its weights against a naive loop, autograd, closed forms and hand-worked numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainables.config import TrainConfig
from trainables.data.sampling import group_count, group_index
from trainables.training.penalty import (
    RunningMeans,
    TrainingLoss,
    fairness_penalty,
    group_means,
    penalty_weights,
    sample_losses,
)

N_GROUPS = 5
reductions = st.sampled_from(["sum", "mean"])
samples = st.lists(st.tuples(st.floats(0, 20, width=32), st.integers(0, N_GROUPS - 1)), min_size=1, max_size=40)


def naive(losses, index, reduction: str) -> float:
    """Equation 1's second term by the book, in double precision."""
    of_group: dict[int, list[float]] = {}
    for loss, group in zip(losses, index):
        of_group.setdefault(int(group), []).append(float(loss))
    means = [sum(members) / len(members) for members in of_group.values()]
    centre = sum(means) / len(means)
    total = sum((mean - centre) ** 2 for mean in means)
    return total if reduction == "sum" else total / len(means)


def tensors(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    losses, index = zip(*pairs)
    return torch.tensor(losses, dtype=torch.float32), torch.tensor(index)


@settings(deadline=None, max_examples=150)
@given(samples, reductions)
def test_the_penalty_equals_the_loop_over_groups(pairs, reduction):
    losses, index = tensors(pairs)
    result = fairness_penalty(losses, index, N_GROUPS, reduction).item()
    assert result == pytest.approx(naive(losses, index, reduction), rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (fairness_penalty(*tensors(p), N_GROUPS).item() for p in (pairs, shuffled))
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_a_hand_worked_batch():
    # group means 2, 5 and 8; centre 5 (not the samples' mean 4.25); 9 + 0 + 9
    losses, index = torch.tensor([1.0, 3.0, 5.0, 8.0]), torch.tensor([0, 0, 1, 2])
    assert fairness_penalty(losses, index, 3).item() == pytest.approx(18)
    assert fairness_penalty(losses, index, 3, "mean").item() == pytest.approx(6)


def test_the_gradient_is_twice_the_deviation_times_each_groups_gradient():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 6, generator=generator, requires_grad=True)
    images, label = torch.randn(30, 4, generator=generator), torch.randint(6, (30,), generator=generator)
    index = torch.randint(3, (30,), generator=generator) * 2  # groups 1 and 3 are absent
    losses = F.cross_entropy(images @ weight, label, reduction="none")
    (result,) = torch.autograd.grad(fairness_penalty(losses, index, 5), weight, retain_graph=True)
    means = [losses[index == g].mean() for g in (0, 2, 4)]
    centre = sum(mean.item() for mean in means) / 3
    expected = torch.zeros_like(weight)
    for mean in means:
        (slope,) = torch.autograd.grad(mean, weight, retain_graph=True)
        expected += 2 * (mean.item() - centre) * slope
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("pairs", [[(0.5, 2), (3.0, 2), (9.0, 2)], [(1.5, g) for g in (0, 0, 1, 3, 4)]])
def test_one_group_or_equal_groups_give_zero_and_no_gradient(pairs, reduction):
    losses, index = tensors(pairs)
    losses.requires_grad_()
    penalty = fairness_penalty(losses, index, N_GROUPS, reduction)
    penalty.backward()
    assert penalty.item() == 0 and not losses.grad.any()


@settings(deadline=None, max_examples=50)
@given(samples, st.integers(0, 50))
def test_absent_groups_leave_the_centre_the_sum_and_the_mean(pairs, more):
    losses, index = tensors(pairs)
    for reduction in ("sum", "mean"):
        few, many = (fairness_penalty(losses, index, n, reduction) for n in (N_GROUPS, N_GROUPS + more))
        assert few.item() == pytest.approx(many.item(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_makes_the_penalty_nan(bad):
    losses = torch.tensor([1.0, bad, 2.0])
    assert math.isnan(fairness_penalty(losses, torch.tensor([0, 1, 1]), 3).item())


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_a_large_common_offset_keeps_the_digits(spread):
    generator = torch.Generator().manual_seed(0)
    losses = 1e4 + spread * torch.randn(64, generator=generator)
    index = torch.randint(8, (64,), generator=generator)
    assert fairness_penalty(losses, index, 8).item() == pytest.approx(naive(losses, index, "sum"), rel=1e-4)


def test_half_precision_losses_are_summed_in_float32():
    losses = torch.full((4096,), 1.0, dtype=torch.bfloat16)  # a running bf16 sum of ones stops at 256
    losses[-1] = 3.0
    index = torch.zeros(4096, dtype=torch.int64)
    index[-1] = 1
    penalty = fairness_penalty(losses, index, 2)
    assert penalty.dtype == torch.float32 and penalty.item() == pytest.approx(2)


def batch_weights(losses, index, reduction="sum", n_groups=N_GROUPS):
    return penalty_weights(*group_means(losses.double(), index, n_groups), index, reduction)


@settings(deadline=None, max_examples=150)
@given(samples, reductions)
def test_the_weights_are_the_penaltys_derivative_by_each_loss(pairs, reduction):
    losses, index = tensors(pairs)
    losses.requires_grad_()
    (slope,) = torch.autograd.grad(fairness_penalty(losses, index, N_GROUPS, reduction), losses)
    weights = batch_weights(losses.detach(), index, reduction)
    torch.testing.assert_close(weights.float(), slope, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(samples, st.lists(st.floats(-1e4, 1e4), min_size=N_GROUPS, max_size=N_GROUPS), reductions)
def test_any_levels_give_weights_that_sum_to_zero(pairs, levels, reduction):
    losses, index = tensors(pairs)
    counts = group_means(losses.double(), index, N_GROUPS)[1]
    weights = penalty_weights(torch.tensor(levels, dtype=torch.float64), counts, index, reduction)
    assert weights.sum().item() == pytest.approx(0, abs=1e-8)


@settings(deadline=None, max_examples=50)
@given(samples, st.floats(-100, 100), st.integers(0, N_GROUPS - 1), reductions)
@example([(1.0, 0), (1.0, 1), (1.0, 2)], 0.1, 0, "sum")  # (0.1 + 0.1 + 0.1) / 3 is not 0.1
def test_equal_levels_and_a_group_alone_give_no_weight_at_all(pairs, level, alone, reduction):
    losses, index = tensors(pairs)
    counts = group_means(losses.double(), index, N_GROUPS)[1]
    equal = torch.full((N_GROUPS,), level, dtype=torch.float64)
    assert not penalty_weights(equal, counts, index, reduction).any()
    assert not batch_weights(losses, torch.full_like(index, alone), reduction).any()


def test_weights_of_a_hand_worked_batch():
    # running levels 1, 2 and 6 of the groups present (the absent one's does not count): centre 3
    levels, index = torch.tensor([1.0, 99.0, 2.0, 6.0], dtype=torch.float64), torch.tensor([0, 0, 2, 3, 3, 3])
    counts = torch.tensor([2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    assert penalty_weights(levels, counts, index).tolist() == pytest.approx([-2, -2, -2, 2, 2, 2])
    assert penalty_weights(levels, counts, index, "mean").tolist() == pytest.approx([-2 / 3] * 3 + [2 / 3] * 3)


def test_running_means_by_hand():
    means, both = RunningMeans(3, 0.5), torch.tensor([1.0, 2.0, 0.0])
    assert means.update(torch.tensor([4.0, 8.0, 7.0]), both).tolist() == [4, 8, 0]  # the first batch as it is
    assert means.update(torch.tensor([1.0, 0.0, 7.0]), torch.tensor([3.0, 0.0, 0.0])).tolist() == [2, 8, 0]
    # 8 is an update behind: (1/4 8 + 1/2 2) / (3/4) is its mean by now, and not that of three updates
    assert means.update(torch.tensor([2.0, 2.0, 7.0]), both).tolist() == pytest.approx([2, 4, 0])
    assert means.updates.tolist() == [3, 2, 0] and means.average[2] == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(samples, min_size=1, max_size=4), reductions)
def test_without_memory_the_running_form_is_the_batchs_to_the_last_bit(batches, reduction):
    running = RunningMeans(N_GROUPS, 0.0)
    for losses, index in map(tensors, batches):
        means, counts = group_means(losses.double(), index, N_GROUPS)
        weights = penalty_weights(running.update(means, counts), counts, index, reduction)
        assert torch.equal(weights, batch_weights(losses, index, reduction))


@settings(deadline=None, max_examples=50)
@given(st.lists(samples, min_size=1, max_size=5), st.floats(0, 0.99))
def test_a_running_mean_is_the_weighted_mean_of_its_own_groups_batches(batches, decay):
    running, seen = RunningMeans(N_GROUPS, decay), {g: [] for g in range(N_GROUPS)}
    for losses, index in map(tensors, batches):
        levels = running.update(*group_means(losses.double(), index, N_GROUPS))
        for group in set(index.tolist()):
            seen[group].append(losses[index == group].double().mean().item())
    for group, means in seen.items():
        shares = [decay ** (len(means) - 1 - i) for i in range(len(means))]
        expected = np.average(means, weights=shares) if means else 0
        assert levels[group].item() == pytest.approx(expected, rel=1e-6)


def test_groups_are_classes_or_sensitive_groups_or_their_cells():
    label, group = torch.tensor([0, 2, 1, 2]), torch.tensor([1, 0, 1, 1])
    assert group_index("class", label, group, 2).tolist() == [0, 2, 1, 2]
    assert group_index("sensitive", label, group, 2).tolist() == [1, 0, 1, 1]
    assert group_index("class_x_sensitive", label, group, 2).tolist() == [1, 4, 3, 5]
    assert [group_count(kind, 3, 2) for kind in ("class", "sensitive", "class_x_sensitive")] == [3, 2, 6]


def test_every_cell_has_an_index_of_its_own_inside_the_count():
    label, group = (torch.from_numpy(axis.ravel().copy()) for axis in np.meshgrid(np.arange(7), np.arange(4)))
    index = group_index("class_x_sensitive", label, group, 4)
    assert sorted(index.tolist()) == list(range(group_count("class_x_sensitive", 7, 4)))


def training_loss(n_classes: int, **values) -> TrainingLoss:
    return TrainingLoss(TrainConfig(**{"method": "fairlora"} | values), n_classes, 1, "cpu")


def test_the_objective_of_two_samples_by_hand():
    # losses ln(1 + 1) and ln(1 + 1/3): cross-entropy ln(8/3) / 2, penalty 2 * (ln(3/2) / 2)^2
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    label = torch.tensor([0, 1])
    loss = training_loss(2, lam=10.0)(sample_losses(logits, label), label, label)
    assert loss.cross_entropy.item() == pytest.approx(math.log(8 / 3) / 2)
    assert loss.penalty.item() == pytest.approx(math.log(1.5) ** 2 / 2)
    assert loss.total.item() == pytest.approx(math.log(8 / 3) / 2 + 5 * math.log(1.5) ** 2)


def test_without_weight_or_penalty_the_objective_is_cross_entropy():
    generator = torch.Generator().manual_seed(2)
    logits, label = torch.randn(20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    plain = F.cross_entropy(logits, label).item()
    losses = sample_losses(logits, label)
    without = training_loss(4, lam=3.0, method="lora")(losses, label, label)
    assert without.total.item() == pytest.approx(plain) and without.penalty.item() == 0
    weightless = training_loss(4, lam=0.0)(losses, label, label)
    assert weightless.total.item() == pytest.approx(plain) and weightless.penalty.item() > 0


def test_bfloat16_logits_give_float32_losses():
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    label = torch.tensor([0, 1])
    loss = training_loss(2, lam=1.0, reduction="mean")(sample_losses(logits, label), label, label)
    assert {term.dtype for term in loss} == {torch.float32}
    assert loss.cross_entropy.item() == pytest.approx((math.log1p(math.e) + math.log1p(math.e**4)) / 2, rel=1e-6)
