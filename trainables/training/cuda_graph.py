"""Optimisation steps: forward, loss, backward, clipping, AdamW. On a GPU they are recorded once and replayed.

A transformer's step is some thousand kernels, and Python takes longer to ask for the short ones than a GPU to compute
them. So full batches are replayed from a CUDA graph: the same kernels in the same order, asked for at once. Nothing
in a step waits for the GPU: its numbers are looked at when the next step has been handed over (``StepLosses``).
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import TrainConfig
from trainables.training.micro_batches import TrainingLoss

WARM = 3  # full batches before the recording: by then libraries have chosen their kernels, and AdamW has its state
Batch = tuple[Tensor, Tensor, Tensor]  # images or tokens, label, group


class Diverged(ArithmeticError):
    """The training or validation loss is no longer a finite number."""


class Steps:
    """The optimiser of one run and its steps. ``forward`` takes images or tokens and returns logits.

    Batches of another size than the first one's (an epoch's last), batches that go through memory in parts, and all on
    a CPU are computed as they come. ``graph`` is the recording, None where there is none.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, objective: TrainingLoss, forward: Callable[[Tensor], Tensor]
    ):
        self.config, self.objective, self.forward = config, objective, forward
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.device = self.trained[0].device
        self.on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config), fused=True, capturable=self.on_gpu)
        self.stream = torch.cuda.Stream(self.device) if self.on_gpu else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self._may_record, self._warm = self.on_gpu, 0
        self._inputs: Batch | None = None  # what the recording reads
        self._numbers: Tensor | None = None  # what it writes
        self._own_rates()

    def _own_rates(self) -> None:
        """On a GPU a learning rate is a tensor there: a recording reads it anew at each step."""
        for group in self.optimizer.param_groups:
            group["capturable"] = self.on_gpu
            if self.on_gpu:
                group["lr"] = torch.zeros((), device=self.device)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Where steps and what they wait for are handed over: on a GPU a stream that can be recorded."""
        if self.stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outer)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:  # a run that has diverged still has a step at work, in memory that is about to be freed
            outer.wait_stream(self.stream)

    def __call__(self, share: float, *batch: Tensor) -> Tensor:
        """One step at ``share`` of the peak learning rates; its total, cross-entropy and penalty, float32 ``[3]`` on
        the device, to be read before the next step."""
        for group in self.optimizer.param_groups:
            if self.on_gpu:
                group["lr"].fill_(group["peak"] * share)
            else:
                group["lr"] = group["peak"] * share
        if not self._recordable(batch):
            return self._computed(batch)
        if self.graph is None:
            self._warm += 1
            if self._warm <= WARM or not self._record(batch):
                return self._computed(batch)
        for mine, given in zip(self._inputs, batch):
            mine.copy_(given)
        self.graph.replay()
        return self._numbers

    def _recordable(self, batch: Batch) -> bool:
        if not self._may_record or self.objective.micro_batch or len(batch[0]) != self.config.batch_size:
            return False
        return self._inputs is None or self._inputs[0].shape == batch[0].shape

    def _record(self, batch: Batch) -> bool:
        """Record the step of ``batch``, which computes nothing yet. False where memory is too small for both the
        recording and the batches that are computed as they come: then all are."""
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)  # so that gradients are written, not added to
        try:
            self._inputs = tuple(part.clone() for part in batch)
            with torch.cuda.graph(graph, stream=self.stream):
                self._numbers = self._updated(self._gradient(self._inputs))
        except RuntimeError as error:  # torch's own OutOfMemoryError, or CUDA's, where the recording is closed
            if "out of memory" not in str(error).lower():
                raise
            del graph
            self.forget()
            return False
        self.graph = graph
        return True

    def forget(self) -> None:
        """Give up the recording, and with it the memory that it holds, until the run's end."""
        self._may_record, self.graph, self._inputs, self._numbers = False, None, None, None
        self.optimizer.zero_grad(set_to_none=True)
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _computed(self, batch: Batch) -> Tensor:
        return self._updated(self._fitting_gradient(batch))

    def _fitting_gradient(self, batch: Batch) -> Tensor:
        """Where memory is too small for the batch's gradient, the recording goes first. Then it is computed in smaller
        and smaller parts, which add up to the same; they stay small until the run's end."""
        while True:
            before = copy.deepcopy(self.objective.running)  # must take each batch in once
            self.optimizer.zero_grad(set_to_none=True)
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._gradient(batch)
            self.objective.running = before
            if self.graph is None:
                self.objective.halve(len(batch[0]))
            self.forget()

    def _gradient(self, batch: Batch) -> Tensor:
        return torch.stack(self.objective.backward(self.forward, *batch))

    def _updated(self, numbers: Tensor) -> Tensor:
        if not self.on_gpu and not math.isfinite(numbers[0]):
            return numbers  # and ``StepLosses`` ends the run, with weights as they were
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        return numbers

    def state(self) -> dict:
        """The optimiser's state, copies on the CPU that fit any device."""
        state = _copied(self.optimizer.state_dict())
        for group in state["param_groups"]:
            group["lr"], group["capturable"] = float(group["lr"]), False
        return state

    def restore(self, state: dict) -> None:
        """Go on from an earlier ``state()``; before the first step."""
        self.optimizer.load_state_dict(_copied(state))  # it would train in the caller's tensors
        self._own_rates()


class StepLosses:
    """The losses of an epoch's steps, float32 ``[steps, 3]``. ``add`` raises Diverged at the first that is no number:
    on a GPU one step late, as asking at once would let it run dry, and weights may be lost by then."""

    def __init__(self, steps: int, first: int, device: torch.device):
        """``first`` is the number of the epoch's first step in the run's count."""
        self.first, self.taken = first, 0
        self.on_gpu = device.type == "cuda"
        self.values = torch.zeros(steps, 3, pin_memory=self.on_gpu)
        self._written = [torch.cuda.Event() for _ in range(steps)] if self.on_gpu else []

    def add(self, numbers: Tensor) -> None:
        self.values[self.taken].copy_(numbers, non_blocking=True)
        if self.on_gpu:
            self._written[self.taken].record()
        self.taken += 1
        late = self.taken - 1 - self.on_gpu
        if late >= 0:
            self._check(late)

    def means(self) -> list[float]:
        """Means over the epoch's steps, of total, cross-entropy and penalty."""
        self._check(self.taken - 1)
        return np.mean(self.values[: self.taken].double().numpy(), axis=0).tolist()

    def _check(self, i: int) -> None:
        if self.on_gpu:
            self._written[i].synchronize()
        total = self.values[i, 0].item()
        if not math.isfinite(total):
            epoch = self.first // len(self.values) + 1
            raise Diverged(f"the training loss is {total} at step {self.first + i} (epoch {epoch})")


def _copied(state):
    """Nested dicts and lists with copies of their tensors, on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Body and head with their own peak learning rates; weight decay on matrices alone."""
    groups, exempt = [], model.no_weight_decay()  # timm's: tokens, position embeddings, a Swin's position bias
    for is_head, peak in ((False, config.lr), (True, config.head_lr or config.lr)):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n.startswith("head.") == is_head]
        for decays in (True, False):
            chosen = [p for n, p in named if (p.ndim > 1 and n not in exempt) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return groups
