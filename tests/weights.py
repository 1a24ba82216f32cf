"""Weights files for the tests, and how each module's refusal is read."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from trainables.config import ConfigError
from trainables.models.create import load


def saved(state: dict, path: Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def refusal(name: str, size: int, path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(name, size, str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
