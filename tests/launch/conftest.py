"""A Python for the launchers' scripts, whose ranks need not import torch each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from forking import Forks
from warm_python import WarmPython


@pytest.fixture(scope="session")
def warm_python(forks: Forks) -> Iterator[str]:
    """The path of a Python for INCEPTION_PYTHON; see `WarmPython`."""
    python = WarmPython(forks, os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    yield str(python.executable)
    python.close()
