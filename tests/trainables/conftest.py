import pytest
import torch

from tests.weights import saved
from trainables.models.create import load
from trainables.models.vit_nano import vit_nano


@pytest.fixture
def no_loaded_model():
    """No pretrained model of another test is in memory."""
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def nano_state() -> dict[str, torch.Tensor]:
    """Random weights of vit_nano."""
    return vit_nano().state_dict()


@pytest.fixture
def nano_file(tmp_path, nano_state) -> str:
    return saved(nano_state, tmp_path / "nano.safetensors")
