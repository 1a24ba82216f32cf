"""An MLflow store of its own for each test: the empty database is made once, as MLflow takes seconds for its tables."""

import shutil
from pathlib import Path

import pytest

from tests.mirror import empty_database


@pytest.fixture(scope="session")
def database(pytestconfig) -> Path:
    return empty_database(pytestconfig.cache.mkdir("mlflow"))


@pytest.fixture
def store(database, tmp_path) -> str:
    (tmp_path / "store").mkdir()
    return f"sqlite:///{shutil.copy(database, tmp_path / 'store/mlflow.db')}"
