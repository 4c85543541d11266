"""What the tests share: one thread each, also in the processes that they start; several may run at once."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with public reference data; most machines do not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "kill at several hundred moments, not at 50, and try ten times as many damages"
    parser.addoption("--long", action="store_true", help=help)


def pytest_configure(config: pytest.Config) -> None:
    """hypothesis tries the same examples each time, keeps none, and does not time them."""
    examples = 5000 if config.getoption("long") else 500
    settings.register_profile("c2dlib", max_examples=examples, derandomize=True, deadline=None, database=None)
    settings.load_profile("c2dlib")
