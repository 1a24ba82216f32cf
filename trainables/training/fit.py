"""The only training loop, and FairLoRA's step: losses, penalty, backward pass, clipping, AdamW.

``fit`` yields the numbers of one epoch at a time; ``Trainer`` is one run, which takes and gives a checkpoint;
``TrainStep`` is the paper's step. Two wrappers around the step change no number: ``micro_batches.py`` takes a batch
through memory in parts, ``cuda_graph.py`` records a step on a GPU and replays it.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import ConfigError, DoesNotFit, TrainConfig
from trainables.data.batches import Data, Split, evaluation_batches, training_batches
from trainables.logits import evaluate_logits
from trainables.metrics import Evaluation, adjusted, cell_counts
from trainables.models.adapters import adapt, check_adapters
from trainables.models.class_token import read_last_row
from trainables.models.create import fresh_model
from trainables.models.forward import forward
from trainables.models.weights import Transformer
from trainables.seeds import seed_for
from trainables.training.cuda_graph import RecordedStep
from trainables.training.epoch import Diverged, StepLosses, Stopwatch
from trainables.training.micro_batches import TOO_LARGE, MicroBatchStep, same_streams
from trainables.training.optimizer import adamw, optimizer_state, restore_optimizer, set_learning_rates
from trainables.training.penalty import TrainingLoss, sample_losses
from trainables.training.prefix_cache import PrefixCache

State = dict[str, Any]  # a run's, as ``Trainer.checkpoint`` gives it


@dataclass(frozen=True)
class Epoch:
    """``number`` counts from 1, ``metrics`` are ``train_…`` means and ``val_…`` of ``metrics.py``. Of its ``seconds``,
    ``times`` went into ``read`` (batches), ``train`` (steps), ``validate`` (forward passes) and ``metrics``; the first
    epoch's ``start`` came before them. ``trainer`` is of this epoch until the generator is asked for the next."""

    number: int
    metrics: dict[str, float]
    evaluation: Evaluation
    seconds: float
    times: dict[str, float]
    trainer: "Trainer"


def fit(
    config: TrainConfig, data: Data, weights: str | None = None, device: str = "cpu", checkpoint: State | None = None
) -> Iterator[Epoch]:
    """Train ``config`` on ``data.train``, one epoch a step, each measured on ``data.val``. To stop, stop iterating.

    From an earlier ``checkpoint`` of the same configuration it goes on behind its epoch, and equals the run that was
    never interrupted to the last bit (a CPU with one thread, or a GPU that ``gpu.claim`` has prepared).
    Raises Diverged when a loss is NaN or infinite, ConfigError where configuration, weights and data do not fit.
    """
    start = time.perf_counter()
    trainer = Trainer(config, data, weights, device, checkpoint)
    trainer.watch.seconds["start"] = time.perf_counter() - start
    while trainer.epoch < config.epochs:
        start = time.perf_counter()
        train = trainer.train_epoch()
        evaluation = trainer.evaluate()
        if not math.isfinite(evaluation.metrics["loss"]):  # the last step broke the weights: accuracy would look sane
            raise Diverged(f"the validation loss is {evaluation.metrics['loss']} after epoch {trainer.epoch}")
        metrics = {f"train_{k}": v for k, v in train.items()} | {f"val_{k}": v for k, v in evaluation.metrics.items()}
        yield Epoch(trainer.epoch, metrics, evaluation, time.perf_counter() - start, trainer.watch.take(), trainer)


class TrainStep:
    """One optimisation step as FairLoRA's paper has it. ``forward`` takes images or tokens and returns logits."""

    def __init__(
        self, model: Transformer, config: TrainConfig, loss: TrainingLoss, forward: Callable[[Tensor], Tensor]
    ):
        self.config, self.loss, self.forward = config, loss, forward
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.device = self.trained[0].device
        self.optimizer = adamw(model, config, self.device)

    def __call__(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """One step; its total loss, cross-entropy and penalty, float32 ``[3]`` on the device."""
        return self.update(self.backward(inputs, label, group))

    def backward(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """The batch's gradient. The losses returned are equation 1's, also where running means shape the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = sample_losses(self.forward(inputs), label)  # the cross-entropy of each image
        loss = self.loss(losses, label, group)  # their mean + λ · the fairness penalty (equation 1)
        if self.loss.running is None:
            loss.total.backward()
        else:
            (self.loss.weights(losses, label, group) @ losses).backward()
        return torch.stack(loss).detach()

    def update(self, losses: Tensor) -> Tensor:
        """Clip the gradient and change the weights; returns ``losses``, those of ``backward``."""
        if self.device.type != "cuda" and not math.isfinite(losses[0]):
            return losses  # and ``StepLosses`` ends the run, with weights as they were
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        return losses


class Trainer:
    """Model, optimiser and position of one run. Every random stream is a function of (seed, name, epoch)."""

    def __init__(self, config: TrainConfig, data: Data, weights: str | None, device: str, checkpoint: State | None):
        if data.manifest.size != config.image_size:
            raise ConfigError(f"image_size={config.image_size}, but the store holds {data.manifest.size} px images")
        self.config, self.data, self.device = config, data, device
        model = self.model = adapt(fresh_model(config, data.manifest.classes, weights), config).to(device)
        check_adapters(model)
        read_last_row(model)
        self.prefix_cache = PrefixCache(model, config, data, device)
        loss = TrainingLoss(config, len(data.manifest.classes), len(data.manifest.groups), device)
        # Not through self: such a cycle would keep the model, and its memory, until garbage is collected.
        self.train_step = TrainStep(model, config, loss, lambda inputs: forward(model, inputs, config))
        self.micro_batches = MicroBatchStep(self.train_step, config.micro_batch if config.accumulates else None)
        self.recorded_step = RecordedStep(self.micro_batches, config.batch_size, self.train_step.device)
        self.steps_per_epoch = math.ceil(len(data.train) / config.batch_size)
        self.epoch, self.watch = 0, Stopwatch()
        if checkpoint is not None:
            self._restore(checkpoint)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training split; the means of loss, cross-entropy and penalty over its steps."""
        self.model.train()
        first = self.epoch * self.steps_per_epoch
        losses = StepLosses(self.steps_per_epoch, first, self.train_step.device)
        with self.watch.on("read"):
            tokens = self.prefix_cache.training(self.epoch)
        with same_streams(self.device), self.recorded_step.context():
            torch.manual_seed(seed_for(self.config.seed, "dropout", self.epoch))
            batches = training_batches(self.data.train, self.config, self.epoch, self.device, tokens)
            for step, batch in enumerate(self.watch.each("read", batches), start=first):
                with self.watch.on("train"):
                    set_learning_rates(self.train_step.optimizer, self._schedule(step))
                    losses.add(self.recorded_step(*batch))
            with self.watch.on("train"):
                means = losses.means()
        self.epoch += 1
        return means

    def _schedule(self, step: int) -> float:
        """Share of the peak learning rate at ``step``: a linear warm-up, then half a cosine down to 0."""
        total = self.steps_per_epoch * self.config.epochs
        warm = round(self.config.warmup * total)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def evaluate(self) -> Evaluation:
        """Every metric of the validation split."""
        with self.watch.on("read"):
            tokens = self.prefix_cache.validation()
        arguments = (self.model, self.data, self.data.val, self.config, self.device, tokens, self.watch)
        with self.recorded_step.context():
            if self.recorded_step.recording is not None:
                with contextlib.suppress(DoesNotFit):  # beside the recording
                    return evaluate_split(*arguments)
                self.recorded_step.forget()
            return evaluate_split(*arguments)

    def checkpoint(self) -> State:
        """Tensors and plain values, so that ``torch.load(weights_only=True)`` reads it; copies on the CPU, as the next
        epoch writes into the tensors."""
        return {
            "epoch": self.epoch,
            "config_id": self.config.config_id,
            "seed": self.config.seed,
            "model": trained_state(self.model),
            "optimizer": optimizer_state(self.train_step.optimizer),
            "objective": self.train_step.loss.state(),
        }

    def _restore(self, checkpoint: State) -> None:
        own = (self.config.config_id, self.config.seed)
        if (checkpoint["config_id"], checkpoint["seed"]) != own:
            raise ConfigError(
                f"the checkpoint must belong to configuration {own[0]} with seed {own[1]}, "
                f"but is {checkpoint['config_id']}'s with seed {checkpoint['seed']}"
            )
        self.model.load_state_dict(checkpoint["model"], strict=False)
        restore_optimizer(self.train_step.optimizer, checkpoint["optimizer"])
        self.train_step.loss.restore(checkpoint["objective"])
        self.epoch = checkpoint["epoch"]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name, detached copies on the CPU."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}


@torch.inference_mode()
def evaluate_split(
    model: Transformer,
    data: Data,
    split: Split,
    config: TrainConfig,
    device: str = "cpu",
    tokens: np.ndarray | None = None,
    watch: Stopwatch | None = None,
) -> Evaluation:
    """Every metric of ``model`` on one split (evaluation mode, no augmentation); ``tokens``: the split's, if kept."""
    model.eval()
    watch = watch or Stopwatch()
    batches = []
    for inputs, _, _ in watch.each("read", evaluation_batches(split, device, tokens=tokens)):
        with watch.on("validate"):
            batches.append(_logits(model, inputs, config).float())
    with watch.on("validate"):  # asked for at the end: each question is a wait for the GPU
        logits = torch.cat(batches).cpu().numpy()
    with watch.on("metrics"):
        labels, groups, task = split.label.numpy(), split.group.numpy(), data.manifest
        evaluation = evaluate_logits(logits, labels, groups, len(task.groups), task.positive)
        sizes = len(task.classes), len(task.groups)
        return adjusted(evaluation, cell_counts(data.train.label.numpy(), data.train.group.numpy(), *sizes))


def _logits(model: Transformer, inputs: Tensor, config: TrainConfig) -> Tensor:
    """``forward``, of half the images at a time where memory is too small for all of them."""
    with contextlib.suppress(torch.OutOfMemoryError):
        return forward(model, inputs, config)
    if len(inputs) == 1:
        raise DoesNotFit(TOO_LARGE)
    torch.cuda.empty_cache()
    return torch.cat([_logits(model, half, config) for half in inputs.chunk(2)])
