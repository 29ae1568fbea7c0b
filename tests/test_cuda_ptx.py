"""Every kernel of the CUDA backend is compiled to PTX and assembled for two generations of GPUs, none of which is here.

What the assembler says of registers and spills is gated, and how wide the products' loads are.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

cuda = pytest.importorskip("numba.cuda", reason="the package numba-cuda is missing; pip install 'fastbp[cuda]'")
nvjitlink = pytest.importorskip("cuda.bindings.nvjitlink", reason="nvJitLink is missing; pip install 'fastbp[cuda]'")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

import numba.cuda.dispatcher  # noqa: E402
from fastbp.kernels.numba_cuda import flat, foreign, products, rows, samples, tiles, walk  # noqa: E402
from fastbp.kernels.numba_cuda.toolkit import THREADS  # noqa: E402
from numba import types  # noqa: E402

GENERATIONS = (8, 0), (9, 0)
MOST_REGISTERS = 128

whole, real = types.int64, types.float64
NUMBERS, INDICES = types.Array(types.int64, 1, "C"), types.Array(types.int32, 1, "C")
SUMS, TABLE, RECORDS = (types.Array(types.float64, n, "C") for n in (1, 2, 2))
ROWS = types.Array(types.int64, 2, "C")
NOW = NUMBERS, whole


def spread(T: Any) -> dict[str, tuple[Any, ...]]:
    """Arguments of the kernels that take them as a tuple, for arrays of T."""
    function = whole, real, real
    return {
        "gather_rows": (*NOW, NUMBERS, T, whole, whole, T, whole),
        "gather_csr_rows": (*NOW, NUMBERS, T, INDICES, NUMBERS, whole, whole, T, whole),
        "gather_classes": (*NOW, NUMBERS, NUMBERS, whole, T, whole),
        "write_rows": (*NOW, T, whole, whole, T),
        "softmax": (*NOW, whole, T, whole),
        "batch_norm": (*NOW, whole, T, T, whole, whole, whole, real, real, whole, real, *[whole] * 5),
        "normalize": (*NOW, whole, T, T, *[whole] * 5, real, whole, real, whole),
        "activate": (*NOW, whole, T, whole, *function, whole, whole),
        "maxout": (*NOW, whole, whole, T, whole, whole),
        "dropout": (*NOW, TABLE, whole, T, whole, *function, real, whole, whole),
        "output_delta": (*NOW, whole, T, whole, whole, whole, *function, whole, real, whole, SUMS),
        "activation_delta": (*NOW, whole, T, whole, *function, whole),
        "maxout_delta": (*NOW, whole, whole, T, whole, whole, whole),
        "batch_norm_delta": (*NOW, TABLE, whole, T, T, T, T, T, *[whole] * 6),
    }


def plain(T: Any) -> dict[str, tuple[Any, ...]]:
    """Arguments of the kernels on flat arrays of T."""
    span = whole, whole, NUMBERS
    return {
        "spread_out": (T, T, NUMBERS),
        "brought_together": (T, T, NUMBERS),
        "optimizer_step": (*NOW, TABLE, *span, whole, T, T, T, T),
        "square_sums": (*NOW, *span, T, SUMS),
        "clip_norm": (*NOW, TABLE, *span, T, SUMS),
        "average_step": (*NOW, TABLE, *span, T, T),
        "find_strange": (T, NUMBERS),
        "convert": (NUMBERS, T),
        "find_range": (T, T, T),
    }


def of_products(T: Any) -> dict[str, tuple[Any, ...]]:
    """Arguments of the kernels of products."""
    sizes = *NOW, whole
    return {
        "forward_kernel": (*sizes, T, T, *[whole] * 6, real, whole),
        "backprop_kernel": (*sizes, T, T, *[whole] * 6, real, real, whole),
        "update_kernel": (*sizes, TABLE, T, T, T, T, T, *[whole] * 7, SUMS, whole),
    }


def walked(T: Any) -> tuple[Any, ...]:
    """Arguments of the walk."""
    samples_of = NUMBERS, TABLE, ROWS, TABLE, T, T, NUMBERS, T
    return (whole, *NOW, *samples_of, T, T, T, T, whole, SUMS, SUMS, SUMS, real)


def cases() -> Iterator[Any]:
    """Yield each kernel's name, what returns it, and its arguments' types."""
    for dtype in ("float32", "float64"):
        T = types.Array(getattr(types, dtype), 1, "C")
        for name, arguments in spread(T).items():
            yield pytest.param(functools.partial(getattr, rows, name), (types.Tuple(arguments),), id=f"{name}-{dtype}")
        for name, arguments in plain(T).items():
            home = flat if hasattr(flat, name) else foreign
            yield pytest.param(functools.partial(getattr, home, name), arguments, id=f"{name}-{dtype}")
        menu = {tile for slices in (1, tiles.N_SLICES) for tile in tiles.menu(slices, dtype)}
        menu |= {tiles.TENSOR} if dtype == "float32" else set()
        for tile in sorted(menu):
            for name, arguments in of_products(T).items():
                make = functools.partial(getattr(products, name), tile, dtype, True)
                yield pytest.param(
                    make, arguments, id=f"{name}-{tile.rows}x{tile.columns}-{'tf32' if tile.by_tensor_cores else dtype}"
                )
    once = {
        "shuffle": (samples.shuffle, (SUMS, NUMBERS, NUMBERS)),
        "norm_of_sums": (flat.norm_of_sums, (whole, SUMS, SUMS)),
        "end_step": (flat.end_step, (*NOW, TABLE, SUMS, SUMS, SUMS)),
        "start": (flat.start, (NUMBERS, whole, SUMS)),
        "next_batch": (flat.next_batch, (NUMBERS,)),
        "go_on": (flat.go_on, (NUMBERS, whole)),
    }
    for name, (kernel, arguments) in once.items():
        yield pytest.param(functools.partial(lambda kernel: kernel, kernel), arguments, id=name)
    yield pytest.param(walk.walk_kernel, (types.Tuple(walked(types.Array(types.float32, 1, "C"))),), id="walk")


def test_tensor_cores_are_asked_for() -> None:
    T = types.Array(types.float32, 1, "C")
    ptx = ptx_of(products.forward_kernel(tiles.TENSOR, "float32", True), of_products(T)["forward_kernel"], (8, 0))
    assert ptx.count("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") >= 4


@pytest.mark.parametrize("tile", [tiles.SMALL, tiles.MEDIUM, tiles.LARGE], ids=str)
def test_older_gpus_do_without_copies_that_need_no_thread(tile: tiles.Tile) -> None:
    arguments, generation = of_products(types.Array(types.float32, 1, "C")), (7, 5)
    for name in arguments:
        ptx = ptx_of(getattr(products, name)(tile, "float32", False), arguments[name], generation)
        assert "cp.async" not in ptx
        assert "bytes spill" in assembled(ptx, generation)
    newer = ptx_of(products.update_kernel(tile, "float32", True), arguments["update_kernel"], (8, 0))
    assert "cp.async.cg.shared.global" in newer
    assert "cp.async.wait_all" in newer


def ptx_of(kernel: Any, arguments: tuple[Any, ...], generation: tuple[int, int]) -> str:
    """Return a kernel's PTX; device functions are compiled for the GPU at hand, which a test has to invent."""
    device = SimpleNamespace(compute_capability=generation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.cuda.dispatcher, "get_current_device", lambda: device)
        options = {"device": False, "abi": "numba", "output": "ptx", "launch_bounds": (THREADS, 2)}
        return str(cuda.compile(kernel.py_func, arguments, cc=generation, **options)[0])


def assembled(ptx: str, generation: tuple[int, int]) -> str:
    """Return what the assembler says of some PTX."""
    linker = nvjitlink.create(3, [f"-arch=sm_{generation[0]}{generation[1]}", "-Xptxas=-v", "-O3"])
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, ptx.encode(), len(ptx.encode()), "kernel")
        nvjitlink.complete(linker)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
        return log.decode(errors="replace")
    finally:
        nvjitlink.destroy(linker)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: "sm_{}{}".format(*generation))
@pytest.mark.parametrize(("make", "arguments"), [*cases()])
def test_kernels_spill_nothing(make: Any, arguments: tuple[Any, ...], generation: tuple[int, int]) -> None:
    ptx = ptx_of(make(), arguments, generation)
    log = assembled(ptx, generation)
    spills, registers = re.findall(r"(\d+) bytes spill", log), re.findall(r"Used (\d+) registers", log)
    assert spills, log
    assert registers, log
    assert not any(map(int, spills)), log
    assert max(map(int, registers)) <= MOST_REGISTERS, log
    if "linear" in ptx or "backprop" in ptx:
        assert re.search(r"ld\.global\.v[24]\.f(32|64)", ptx), "the products load single numbers"
        assert re.search(r"ld\.shared\.v[24]\.f(32|64)", ptx), "the products load single numbers"
    if "mma.sync" in ptx:
        assert "cvt.rna.tf32" in ptx, "tensor cores get numbers that are not rounded"
    if arguments[-1] is not SUMS and "f32" in ptx and "float64" not in str(arguments):
        assert not re.search(r"(mul|add|fma)\.rn\.f64", ptx), "a constant of float64 drags arithmetic there"
