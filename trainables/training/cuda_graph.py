"""Steps on a GPU: recorded once as a CUDA graph, then replayed: the same kernels in the same order, asked for at once.

Python takes longer to ask for a transformer's thousand short kernels than a GPU to compute them. Nothing in a step
waits for the GPU: its losses are looked at when the next step has been handed over (``StepLosses``).
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.data.batches import Batch
from trainables.training.micro_batches import MicroBatchStep

WARM = 3  # full batches before the recording: by then libraries have chosen their kernels, and AdamW has its state


class Recording(NamedTuple):
    """A recorded step: ``replay`` reads ``inputs`` and writes ``losses``."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    losses: Tensor


class RecordedStep:
    """Wraps a step whose full batches have ``batch_size`` images: on a GPU they are recorded and replayed. Batches of
    another size (an epoch's last) or in parts, and all on a CPU, are computed as they come."""

    def __init__(self, step: MicroBatchStep, batch_size: int, device: torch.device):
        self.micro_batches, self.step = step, step.step
        self.batch_size, self.device = batch_size, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.recording: Recording | None = None
        self.may_record, self._warm = self.stream is not None, 0

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

    def __call__(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """One step; its total loss, cross-entropy and penalty, float32 ``[3]``, to be read before the next step."""
        batch = inputs, label, group
        recordable = self._recordable(inputs)
        if recordable and self.recording is None:
            self._warm += 1
            if self._warm > WARM:
                self._record(batch)
        if not recordable or self.recording is None:
            return self.micro_batches(batch, self.forget)
        for recorded, given in zip(self.recording.inputs, batch):
            recorded.copy_(given)
        self.recording.graph.replay()
        return self.recording.losses

    def _recordable(self, inputs: Tensor) -> bool:
        if not self.may_record or self.micro_batches.size or len(inputs) != self.batch_size:
            return False
        return self.recording is None or self.recording.inputs[0].shape == inputs.shape

    def _record(self, batch: Batch) -> None:
        """Record the step of ``batch``, which computes nothing yet. Where memory is too small for both the recording
        and the batches that are computed as they come, all are computed."""
        self.step.optimizer.zero_grad(set_to_none=True)  # so that gradients are written, not added to
        try:
            self.recording = self._recorded(batch)
        except RuntimeError as error:  # torch's own OutOfMemoryError, or CUDA's, where the recording is closed
            if "out of memory" not in str(error).lower():
                raise
        if self.recording is None:  # and the graph is gone by now, so that its memory can be freed
            self.forget()

    def _recorded(self, batch: Batch) -> Recording:
        graph, (inputs, label, group) = torch.cuda.CUDAGraph(), (part.clone() for part in batch)
        with torch.cuda.graph(graph, stream=self.stream):
            losses = self.step(inputs, label, group)
        return Recording(graph, (inputs, label, group), losses)

    def forget(self) -> bool:
        """Give up the recording, and with it the memory that it holds, until the run's end; whether there was one."""
        held = self.recording is not None
        self.may_record, self.recording = False, None
        self.step.optimizer.zero_grad(set_to_none=True)
        if self.stream is not None:
            torch.cuda.empty_cache()
        return held
