"""Build of the extension `fastbp.kernels.cython_cpu`; everything else stands in pyproject.toml.

An installation without the extension works, with the Numba backend. So nothing that keeps it from being built ends a
build: the reason is recorded in ``cython_build.json`` beside the kernels, where `fastbp info` finds it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "fastbp.kernels"
RECORD = "cython_build.json"
UNIX_FLAGS = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-falign-functions=64", "-falign-loops=64"]
"""Products and sums may fuse and sqrt sets no errno; NaN, infinities and the order of sums stay. Loops begin at cache
lines: the shortest steps depended on where they happened to lie. No flag names an instruction set: those are
chosen in kernels/tile_v*.c, lest start-up code crash processors that lack them."""
KEPT_LINES = 20

EXTENSION = Extension(
    f"{PACKAGE}.cython_cpu",
    ["kernels/cython_cpu.pyx", "kernels/tile_v2.c", "kernels/tile_v3.c", "kernels/tile_v4.c"],
    depends=[str(path) for kind in ("*.h", "*.pxi") for path in sorted(Path("kernels").glob(kind))],
    include_dirs=["kernels"],
    optional=True,
)


class BuildOrExplain(build_ext):
    """Build the extension if possible and record how it went."""

    def initialize_options(self) -> None:
        """Keep the C file that Cython writes out of the source folder."""
        super().initialize_options()
        self.cython_c_in_temp = True

    def build_extension(self, ext: Extension) -> None:
        """Build ``ext``; where that fails, leave none behind, write down why and go on."""
        record = {"built": True, "compiler": self.compiler.compiler_type}
        output: list[str] = []
        try:
            record["compiler"] = self._compiler_version()
            if importlib.util.find_spec("Cython") is None:
                raise ModuleNotFoundError("the package Cython is missing (pip install Cython)")
            record["cython"] = importlib.metadata.version("Cython")
            if self.compiler.compiler_type == "unix":
                ext.extra_compile_args = UNIX_FLAGS
            with _kept(output):
                super().build_extension(ext)
        except Exception as error:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            record |= {"built": False, "reason": _reason(error, output), "output": output[-KEPT_LINES:]}
            print(f"fastbp: built without the Cython backend: {record['reason']}", file=sys.stderr)
        path = Path(self.build_lib, *PACKAGE.split("."), RECORD)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def copy_extensions_to_source(self) -> None:
        """Copy the record too, and remove an older extension where none could be built."""
        build_py = self.get_finalized_command("build_py")
        inplace, built = map(Path, self._get_inplace_equivalent(build_py, EXTENSION))
        if not built.exists():
            inplace.unlink(missing_ok=True)
        super().copy_extensions_to_source()
        self.copy_file(str(built.with_name(RECORD)), str(inplace.with_name(RECORD)))

    def _compiler_version(self) -> str:
        """Return what the compiler says of itself; raise if it does not start."""
        command = list(itertools.takewhile(lambda word: word[0] != "-", getattr(self.compiler, "compiler_so", [])))
        if not command:
            return str(self.compiler.compiler_type)
        try:
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        except OSError as error:
            raise RuntimeError(f"there is no C compiler: {command[0]!r} does not start ({error.strerror})") from error
        return (answer.stdout.splitlines() or command)[0]


@contextlib.contextmanager
def _kept(lines: list[str]) -> Iterator[None]:
    """Keep what the compilers write, and show it in the end. They inherit the file descriptors, not `sys.stdout`."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        originals = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        for descriptor in originals:
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in originals.items():
                os.dup2(original, descriptor)
                os.close(original)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
            print("\n".join(lines))


def _reason(error: Exception, output: list[str]) -> str:
    """Return the compiler's first complaint or, where it made none, the error."""
    complaints = (line.strip() for line in output if re.search(r"\berror( \w+)?:|undefined (reference|symbol)", line))
    return next(complaints, str(error) or type(error).__name__)


setup(ext_modules=[EXTENSION], cmdclass={"build_ext": BuildOrExplain})
