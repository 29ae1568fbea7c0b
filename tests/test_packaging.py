"""Wheel and sdist are complete: built, installed elsewhere and run with the sources out of the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ALONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
"""
"""Where the checkout itself is installed, what a wheel lacks would be found there."""

TRAIN = f"""
{ALONE}
import numpy as np
import fastbp
from fastbp import kernels

where = fastbp.__file__, kernels.__file__
assert all(path.startswith(sys.argv[1]) for path in where), where
X, y = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 3
for backend, state in fastbp.backends().items():
    print(backend, state)
    if state == "available":
        fastbp.Trainer(fastbp.Network((5, 4, 3), backend=backend), backend=backend).fit(X, y)
"""


def run(*command: object, **environment: str) -> str:
    """Run a program far from the checkout and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path.cwd().anchor,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy of what the checkout keeps under version control."""
    if not (CHECKOUT / "pyproject.toml").exists():
        pytest.skip("these tests build the checkout that holds them")
    out = tmp_path_factory.mktemp("sdist")
    left_out = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "cython_cpu.c", "*.json"
    )
    shutil.copytree(CHECKOUT, out / "source", ignore=left_out)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, out / "source")
    shutil.rmtree(out / "source")
    return next(out.glob("*.tar.gz"))


def build_wheel(sdist: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel from the unpacked sdist, then remove the sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.iterdir() if path.is_dir())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, **environment)
    shutil.rmtree(source)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Unpack a wheel as an installer would; what it depends on is taken from this environment."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_sdist_is_complete(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = ["kernels", "fastbp", "tests", "docs", "examples"]
    wanted = {
        path.relative_to(CHECKOUT).as_posix()
        for folder in tracked
        for path in (CHECKOUT / folder).rglob("*")
        if path.suffix in (".py", ".pyx", ".pxi", ".pyi", ".h", ".md") or path.name.startswith("tile_")
        if "__pycache__" not in path.parts
    }
    wanted |= {"pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"}
    wanted = {name for name in wanted if not name.endswith(".so")}
    assert wanted <= names, sorted(wanted - names)


def test_a_wheel_from_the_sdist_runs_alone(sdist: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler: the wheel without extension has a test of its own")
    wheel = build_wheel(sdist, tmp_path)
    site = install(wheel, tmp_path / "site")
    assert (site / "fastbp" / "py.typed").exists()
    assert list((site / "fastbp" / "kernels").glob("cython_cpu*.so"))
    output = run(sys.executable, "-c", TRAIN, site, PYTHONPATH=str(site))
    assert "cython available" in output
    assert "numba available" in output


def test_without_a_compiler_the_install_succeeds_and_says_what_is_missing(sdist: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-compiler")
    wheel = build_wheel(sdist, tmp_path, CC=missing, CXX=missing)
    site = install(wheel, tmp_path / "site")
    assert not list((site / "fastbp" / "kernels").glob("cython_cpu*.so"))
    record = json.loads((site / "fastbp" / "kernels" / "cython_build.json").read_text())
    assert "no-such-compiler" in record["reason"]
    output = run(sys.executable, "-c", TRAIN, site, PYTHONPATH=str(site))
    assert "numba available" in output
    assert "no-such-compiler" in output
    assert "Install a C compiler" in output
    program = f"{ALONE}from fastbp.cli import main; sys.exit(main(['info', '--json']))"
    info = json.loads(run(sys.executable, "-c", program, PYTHONPATH=str(site)))
    assert "no-such-compiler" in json.dumps(info)
