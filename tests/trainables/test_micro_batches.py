"""The gradient of a batch: in parts as in one pass, by weights as by autograd, with the same dropout in both passes."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from trainables.config import TrainConfig
from trainables.data.batches import Data, open_data, training_batches
from trainables.models.forward import forward
from trainables.prepare import datasets
from trainables.training.fit import Trainer, TrainStep
from trainables.training.micro_batches import MicroBatchStep
from trainables.training.optimizer import set_learning_rates
from trainables.training.penalty import TrainingLoss, fairness_penalty, sample_losses

CENTERS = [{}, {"penalty_center": "running"}, {"penalty_center": "running", "penalty_decay": 0.0}]
SHAPES = [(30, 7), (32, 8), (5, 5), (6, 1)]  # images, micro-batch


def batch(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return images, torch.randint(8, (n,), generator=generator), torch.randint(3, (n,), generator=generator)


def model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(dropout), nn.Linear(20, 8)).double()
    net.no_weight_decay = set
    return net


def step(config: TrainConfig, net: nn.Module) -> MicroBatchStep:
    plain = TrainStep(net, config, TrainingLoss(config, 8, 3, "cpu"), net)
    return MicroBatchStep(plain, config.micro_batch if config.accumulates else None)


def gradients(config: TrainConfig, n: int, batches: int = 1) -> tuple[torch.Tensor, tuple]:
    """Of the last of several batches, as one vector, and its losses."""
    net = model()
    one = step(config, net)
    for i in range(batches):
        losses = one.backward(*batch(n, seed=i))
    return torch.cat([p.grad.flatten() for p in net.parameters()]), tuple(losses.tolist())


@pytest.mark.parametrize("groups", ["class", "sensitive", "class_x_sensitive"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("center", CENTERS, ids=["batch", "running", "without memory"])
@pytest.mark.parametrize(("n", "micro"), SHAPES)
def test_parts_give_the_gradient_of_the_whole(groups, reduction, center, n, micro):
    config = TrainConfig(method="fairlora", lam=3.0, groups=groups, reduction=reduction, batch_size=n, **center)
    whole, numbers = gradients(config, n, batches=3)
    parts, same = gradients(dataclasses.replace(config, micro_batch=micro), n, batches=3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6 * max(1.0, whole.abs().max().item()))
    assert same == pytest.approx(numbers, rel=1e-5)


@pytest.mark.parametrize(("n", "micro"), SHAPES)
def test_a_plain_methods_parts_give_its_gradient_in_one_pass(n, micro):
    config, passes = TrainConfig(method="lora", batch_size=n), []
    whole, numbers = gradients(config, n)
    net = model()
    net.register_forward_hook(lambda _, images, __: passes.append(len(images[0])))
    losses = step(dataclasses.replace(config, micro_batch=micro), net).backward(*batch(n))
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), whole, rtol=0, atol=1e-6)
    assert sum(passes) == n and max(passes) <= micro and losses[0].item() == pytest.approx(numbers[0])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_without_memory_the_running_gradient_is_autograds_of_equation_1(reduction):
    config = TrainConfig(method="fairlora", lam=3.0, reduction=reduction, penalty_center="running", penalty_decay=0.0)
    net = model()
    images, label, _ = batch(30, seed=1)
    losses = sample_losses(net(images), label)
    (losses.mean() + 3 * fairness_penalty(losses, label, 8, reduction)).backward()
    wanted = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(gradients(config, 30, batches=2)[0], wanted, rtol=0, atol=1e-6 * wanted.abs().max())


def test_the_reported_penalty_is_the_batchs_own_whatever_the_centre():
    config = TrainConfig(method="fairlora", lam=3.0)
    paper, running = (gradients(dataclasses.replace(config, **c), 30, batches=3) for c in CENTERS[:2])
    assert running[1] == paper[1] and not torch.allclose(running[0], paper[0], rtol=1e-2)


def test_absent_groups_get_neither_update_nor_weight():
    one = step(TrainConfig(method="fairlora", penalty_center="running"), model())
    (images, _, group), label = batch(30), torch.arange(30) % 8
    one.backward(images, label, group)
    before, without = one.step.loss.state(), label != 5
    one.backward(images[without], label[without], group[without])
    after = one.step.loss.state()
    assert (after["updates"] - before["updates"]).tolist() == [1, 1, 1, 1, 1, 0, 1, 1]
    assert after["average"][5] == before["average"][5] != 0


def test_both_passes_see_the_same_dropout_and_parts_differ():
    net, masks = model(dropout=0.5), []
    net[2].register_forward_hook(lambda _, __, out: masks.append(out == 0))
    config = TrainConfig(method="fairlora", batch_size=24, micro_batch=8)
    torch.manual_seed(3)
    step(config, net).backward(*batch(24))
    assert len(masks) == 6 and all(torch.equal(masks[i], masks[i + 3]) for i in range(3))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(masks[:3], 2))
    after = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        for part in batch(24)[0].split(8):
            net(part)
    assert torch.equal(torch.rand(1), after)  # the stream went on by one pass, not by two


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data(datasets.prepare("digits", None, 16))


@pytest.mark.parametrize("center", CENTERS[:2], ids=["batch", "running"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_trained_transformers_gradient_is_the_same_in_parts(digits, center, reduction):
    config = TrainConfig(method="fairfft", reduction=reduction, batch_size=64, lr=1e-3, epochs=2, **center)
    trainer = Trainer(config, digits, None, "cpu", None)
    batches = list(itertools.islice(training_batches(digits.train, config, 0), 6))
    for i, one in enumerate(batches[:5]):
        set_learning_rates(trainer.train_step.optimizer, trainer._schedule(i))
        trainer.train_step(*one)
    gradients = []
    for size in (None, 24):
        net = copy.deepcopy(trainer.model).double()
        loss = TrainingLoss(config, 10, 2, "cpu")
        loss.restore(trainer.train_step.loss.state())
        plain = TrainStep(net, config, loss, lambda part, net=net: forward(net, part.double(), config))
        MicroBatchStep(plain, size).backward(*batches[5])
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6 * gradients[0].abs().max().item())
