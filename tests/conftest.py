"""Shared by all tests: a cache of their own that lasts between runs, so that vit_nano is pretrained once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.processes import patience

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
SIGNDIGITS = SHARED / "data" / "signdigits"
WITH_RAY = {f"test_{name}.py" for name in ("browser", "end_to_end", "faults", "notebooks", "prepare", "search")}
WITH_RAY |= {
    "test_api.py",
    "test_bad_input.py",
    "test_resume.py",
    "test_startup.py",
    "test_weights.py",
    "test_fast_start.py",
    "test_ray_executor.py",
}
VIT_TINY = SHARED / "weights" / "vit_tiny_patch16_224_in1k.safetensors"


# The same examples in every run, as everything else is; `--hypothesis-profile=default` draws others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["TUNE_FAIRLORA_CACHE"] = str(config.cache.mkdir("tune-fairlora"))
    if not hasattr(config, "workerinput") and getattr(config.option, "timeout", None):
        config.option.timeout = patience(config.option.timeout)  # before pytest-timeout reads it, and for all workers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a file share a process; and as two Ray clusters at a time are too much for two cores, all slow ones that
    start one, or look at what one left, do. (xdist's own groups are without effect under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    alone = WITH_RAY if config.getoption("markexpr") != "not slow" else set()  # what starts a Ray is slow

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::")[0]).name
            return "ray" if file in alone else file

    return ByFile(config, log)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums over several threads may round differently."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB; skipped where this user may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a write that failed may still hold its file


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The folder in which the README's first search ran, for real: `runs/demo`, `mlflow.db`."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "tune_fairlora.search", "--space", "digits", "--name", "demo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patience(900))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Chromium's program; the test is skipped where there is none (Debian's package: chromium)."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine")
    return program
