"""What a process does for its GPU: memory is limited to its share, and the same seeds give the same numbers."""

import os

import torch

# What CUDA itself, its libraries and their kernels take of a GPU in each process, beside torch's own memory: 0.52 GiB
# with the first tensor and 0.76 GiB behind the first steps on an H200 (``tests/benchmarks/gpu_steps.py``), rounded up.
PROCESS_BYTES = 1 << 30


def claim(share: float) -> str:
    """The device of a process that was given ``share`` GPUs: "cuda", prepared, or "cpu"; to be called before any other
    use of the GPU. A share below 1 is a limit from here on: Ray's fractions are bookkeeping alone, and one trial could
    starve its neighbours."""
    if not share:
        return "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is then deterministic, whatever the stream
    if not torch.cuda.is_available():
        return "cpu"
    torch.use_deterministic_algorithms(True)
    # It is for finding bugs, and takes time. (A property that torch's module answers at run time, unknown to mypy.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if share < 1:
        limit(share)
    return "cuda"


def limit(share: float) -> None:
    """Let this process's tensors take at most ``share`` of the GPU's memory less what CUDA itself takes."""
    total = total_bytes()
    torch.cuda.set_per_process_memory_fraction(max(share * total - PROCESS_BYTES, PROCESS_BYTES / 8) / total)


def total_bytes() -> int:
    """The memory of the GPU that this process has."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
