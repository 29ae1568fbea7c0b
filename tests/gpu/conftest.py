"""Tests of the CUDA backend on a GPU, skipped where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fastbp

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests, and say why they are skipped."""
    here = [item for item in items if HERE in item.path.parents]
    why_not = fastbp.backends()["cuda"] if here else ""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        why_not = "the simulator is no GPU"
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if why_not != "available":
            item.add_marker(pytest.mark.skip(reason=why_not))
