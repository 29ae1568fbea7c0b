"""Tests of the CUDA backend in numba-cuda's simulator: kernels run as Python, a thread of a block after the other.

The simulator is chosen when numba-cuda is first imported, so these tests have a process of their own: ``make test``
sets ``NUMBA_ENABLE_CUDASIM=1`` for it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests where there is no simulator."""
    why_not = None
    if importlib.util.find_spec("numba_cuda") is None:
        why_not = "the package numba-cuda is missing; pip install 'fastbp[cuda]'"
    elif os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
        why_not = "kernels are simulated in a process of their own: NUMBA_ENABLE_CUDASIM=1 pytest tests/simulated"
    for item in items:
        if why_not and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=why_not))


@pytest.fixture(params=["cuda"], scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """The name of the backend."""
    return str(request.param)
