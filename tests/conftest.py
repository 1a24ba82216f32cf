"""Shared by all tests: a cache of their own that lasts between runs, so that vit_nano is pretrained once."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
SIGNDIGITS = SHARED / "data" / "signdigits"
VIT_TINY = SHARED / "weights" / "vit_tiny_patch16_224_in1k.safetensors"


def pytest_configure(config):
    import os

    os.environ["TUNE_FAIRLORA_CACHE"] = str(config.cache.mkdir("tune-fairlora"))


@pytest.fixture(scope="session")
def signdigits() -> Path:
    """The real photographs beside the project; the test is skipped where they are absent."""
    if not SIGNDIGITS.is_dir():
        pytest.skip("no shared/data/signdigits beside the project")
    return SIGNDIGITS


@pytest.fixture(scope="session")
def vit_tiny_weights() -> Path:
    """Real pretrained weights beside the project; the test is skipped where they are absent."""
    if not VIT_TINY.is_file():
        pytest.skip("no shared/weights beside the project")
    return VIT_TINY
