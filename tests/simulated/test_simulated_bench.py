"""The benchmark for a GPU, in the simulator: that it checks, measures and reports, not how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with sizes that the simulator can do."""
    if not SCRIPT.exists():
        pytest.skip("these tests are run from a checkout, which has bench/")
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"PRODUCTS": ((3, 4, 5),), "LAUNCHES_A_ROUND": 1, "SECONDS_A_ROUND": 0.0}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "OTHER_SIZES", (3, 8))
    monkeypatch.setattr(module, "COPIED", 1000)
    monkeypatch.setattr(module, "ROWS", {"tiny": ((3, 4, 2), 4, "adam", 8)})
    monkeypatch.setattr(module, "blas_product", lambda: None)
    for kind in ("torch_epochs", "jax_epochs"):
        monkeypatch.setattr(module, kind, lambda *arguments: None)
    return module


def test_it_measures_and_writes_a_result(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--rounds", "1"])
    gpu.main()
    (path,) = tmp_path.glob("gpu-*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {row["operation"] for row in found["products"]} == {"linear_forward", "backprop_delta", "linear_update"}
    assert {row["operation"] for row in found["operations"]} >= {"gather_rows", "dropout", "batch_norm_delta"}
    assert found["training"][0]["contender"] == "fastbp"
    assert found["environment"]["backends"]["cuda"] == "available"
    assert f"wrote {path}" in capsys.readouterr().out


def test_a_wrong_product_is_not_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.np, "maximum", lambda a, b: a + 1)
    with pytest.raises(SystemExit, match="linear_forward of 3 x 4 x 5 in float32 is off by"):
        gpu.layer(3, 4, 5, "float32")
