"""The cache of compiled kernels on disk: what two processes save at once does not mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastbp.kernels.numba_jit import _CacheFile


@pytest.mark.parametrize("interrupted", ["_save_data", "_save_index"])
def test_code_of_two_that_save_at_once_does_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    """Both look before either has saved; the first is overtaken before one of its two steps, and then goes on."""
    first, second = (_CacheFile(str(tmp_path), "function", "stamp") for _ in range(2))
    step = getattr(first, interrupted)

    def overtaken(*args: Any) -> None:
        second.save("float64", "code for float64")
        step(*args)

    monkeypatch.setattr(first, interrupted, overtaken)
    monkeypatch.setattr(second, "_load_index", dict)
    first.save("float32", "code for float32")
    fresh = _CacheFile(str(tmp_path), "function", "stamp")
    assert fresh.load("float32") == "code for float32"
    assert fresh.load("float64") in (None, "code for float64")
    assert _CacheFile(str(tmp_path), "function", "other stamp").load("float32") is None
