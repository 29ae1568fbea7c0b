"""Every backend has the operations of the contract: same names, same arguments, same order."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from fastbp.kernels import Activation, Loss, Optimizer

import fastbp
from fastbp import kernels
from fastbp.data import as_features
from fastbp.layout import Layout
from fastbp.plan import Data, no_data, prediction_plan, run_buffers, training_plan

KERNELS = Path(kernels.__file__).parent


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(getattr(function, "py_func", function)).parameters)


REFERENCE = [KERNELS / "reference" / f"{name}.py" for name in ("data", "forward", "backward", "rules", "__init__")]
"""The reference's modules in the order in which its operations stand there."""


def definitions(module: ModuleType) -> list[str]:
    """Names of a backend's public functions in the order of its source."""
    path = Path(module.__file__)
    paths = [KERNELS / "cython_cpu.pyx" if path.suffix != ".py" else path] if path not in REFERENCE else REFERENCE
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return [name for name in re.findall(r"^def (\w+)\(", source, re.MULTILINE) if name in kernels.OPERATIONS]


@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_operation_has_the_contracts_arguments(backend: kernels.Backend, operation: str) -> None:
    reference = kernels.backend("numpy").module
    assert parameters(getattr(backend.module, operation)) == parameters(getattr(reference, operation))


def test_operations_are_defined_in_the_contracts_order(backend: kernels.Backend) -> None:
    assert definitions(backend.module) == list(kernels.OPERATIONS)


def test_backend_has_scratch_size(backend: kernels.Backend) -> None:
    assert parameters(backend.module.scratch_size) == ["n_in", "n_out", "n_rows"]
    assert backend.module.scratch_size(3, 4, 5) >= 0
    assert parameters(backend.module.rows_scratch_size) == ["layers"]
    assert parameters(backend.module.run_scratch_size) == ["plan", "n_rows", "n_threads", "n_entries"]


def _row(op: kernels.Op, **values: int) -> np.ndarray:
    row = np.full(1, kernels.NONE, kernels.PLAN_ROW)
    for name, value in {"n_in": 0, "n_out": 0, "op": op, **values}.items():
        row[name] = value
    return row


FORWARD = {"n_in": 3, "n_out": 2, "a_prev": 0, "a": 512, "W": 0, "b": 6, "activation": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no linear_forward"),
        ([("LINEAR_FORWARD", FORWARD), ("LINEAR_FORWARD", {**FORWARD, "b": 10})], "share the weights"),
        ([("LINEAR_FORWARD", FORWARD), ("LINEAR_FORWARD", {**FORWARD, "W": 3})], "overlap"),
        (
            [("LINEAR_FORWARD", FORWARD), ("LINEAR_UPDATE", {**FORWARD, "delta": 512, "W": 1, "optimizer": 0})],
            "no forward",
        ),
        ([("LINEAR_FORWARD", FORWARD), ("LINEAR_GRAD", {**FORWARD, "delta": 512, "n_out": 1})], "n_in, n_out, b"),
        (
            [("LINEAR_FORWARD", FORWARD), ("LINEAR_UPDATE", {**FORWARD, "delta": 512, "b": -1, "optimizer": 0})],
            "has n_in",
        ),
        (
            [("LINEAR_FORWARD", FORWARD), ("OPTIMIZER_STEP", {"W": 0, "n_in": 2, "optimizer": 0})],
            "has to do with parts",
        ),
    ],
)
def test_plans_that_are_no_layers_are_refused(
    backend: kernels.Backend, rows: list[tuple[str, dict[str, int]]], message: str
) -> None:
    gather = _row(kernels.Op.GATHER_ROWS, source=0, n_out=3, a=0)
    plan = np.concatenate([gather, *(_row(kernels.Op[name], **values) for name, values in rows)])
    flat = {name: np.ones(20) for name in ("params", "grads", "m", "v", "average")}
    data = {**no_data("f8", 3, 2), "X": np.ones((4, 3))}
    workspace = {"work": np.zeros(4096), "scratch": np.zeros(50_000)}
    buffers = kernels.Buffers(**data, **flat, **workspace)
    with pytest.raises(ValueError, match=message):
        backend.train_steps(plan, kernels.step_table(rate=0.1), np.arange(4), 4, buffers, np.zeros(3))
    assert (buffers.params == 1).all()


def test_backend_packs_and_unpacks(backend: kernels.Backend) -> None:
    assert parameters(backend.module.pack) == ["plan", "buffers", "moments", "samples"]
    assert parameters(backend.module.unpack) == ["plan", "buffers", "params", "moments"]


@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_operation_is_documented_with_shapes(operation: str) -> None:
    text = inspect.getdoc(getattr(kernels.backend("numpy"), operation))
    assert text is not None
    assert "Parameters\n----------" in text
    assert "of shape" in text


def test_no_blas_in_the_compiled_backends() -> None:
    """Neither @ nor dot nor a BLAS in what is compiled: the products are fastbp's own."""
    for path in KERNELS.glob("numba_*.py"):
        tree, name = ast.parse(path.read_text(encoding="utf-8")), path.name
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.MatMult)], name
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"dot", "vdot", "matmul", "einsum", "tensordot", "inner", "blas"}, name
    compiled = [path for suffix in ("pyx", "pxi", "h", "c") for path in KERNELS.glob(f"*.{suffix}")]
    sources = [path for path in compiled if path.stem != "cython_cpu" or path.suffix == ".pyx"]
    assert sources
    for path in sources:
        code = re.sub(r"#[^\n]*|/\*.*?\*/|\"\"\".*?\"\"\"", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"gemm|gemv|cblas|scipy\.linalg|np\.dot|matmul|einsum|^\s*@(?!cython)", code), path


def test_no_fastmath() -> None:
    """One flag set, without nnan, ninf and reassoc: NaN stays visible and sums keep their order."""
    from fastbp.kernels.numba_jit import FASTMATH

    assert set(FASTMATH) == {"contract"}
    for path in [*KERNELS.rglob("*.py"), *KERNELS.glob("*.h"), *KERNELS.parent.glob("setup.py")]:
        assert not re.search(r"fastmath\s*=\s*True|ffast-math|Ofast", path.read_text(encoding="utf-8")), path


def test_imports_run_down_only() -> None:
    """kernels/ knows nothing of fastbp/."""
    for path in KERNELS.rglob("*.py"):
        depth = len(path.relative_to(KERNELS).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{path.name} imports from above"
                assert not (node.module or "").startswith("fastbp"), path.name


def test_backends_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fastbp.backends()
    assert list(found) == list(kernels.MODULES)
    assert found["numpy"] == "available"
    monkeypatch.setitem(kernels.MODULES, "cython", "no_such_module")
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    kernels._why_not.cache_clear()
    try:
        reason = fastbp.backends()["cython"]
    finally:
        kernels._why_not.cache_clear()
    assert "C compiler" in reason
    is_checkout = (Path(kernels.__file__).parents[1] / "setup.py").exists()
    assert ("build_ext --inplace" if is_checkout else "--no-cache-dir") in reason


def test_auto_never_takes_numpy_and_honours_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTBP_BACKEND", raising=False)
    assert kernels.resolve("auto") in ("cython", "numba")
    monkeypatch.setenv("FASTBP_BACKEND", "numpy")
    assert kernels.resolve("auto") == "numpy"
    assert kernels.resolve("numba") == "numba"


@pytest.mark.parametrize("name", ["cuda12", "", "Numba"])
def test_unknown_backend_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown backend .* choose one of 'auto', 'numpy'"):
        kernels.backend(name)


# ------------------------------------------------------------------------------------------------- checks


def forward_arguments(**changes: Any) -> dict[str, Any]:
    values = {
        "a_prev": np.ones((2, 3)),
        "W": np.ones((3, 4)),
        "b": np.zeros(4),
        "activation": "relu",
        "a": np.empty((2, 4)),
    }
    return {**values, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"W": np.ones((2, 4))}, ValueError, r"W has shape \(2, 4\) but I is 3 in a_prev"),
        ({"a": np.empty((2, 5))}, ValueError, r"a has shape \(2, 5\) but O is 4 in W"),
        ({"b": np.zeros(3)}, ValueError, r"b has shape \(3,\)"),
        ({"W": np.ones((3, 4), np.float32)}, TypeError, "W has dtype float32; pass dtype float64"),
        ({"a_prev": np.ones((2, 3), int)}, TypeError, "a_prev is dtype int64; pass an ndarray of float32 or float64"),
        ({"a_prev": [[1.0]]}, TypeError, "a_prev is a list"),
        ({"W": np.asfortranarray(np.ones((3, 4)))}, ValueError, "W is not C-contiguous"),
        ({"a_prev": np.ones(3)}, ValueError, r"a_prev has shape \(3,\); pass an array of shape \(B, I\)"),
        ({"a_prev": np.ones((0, 3)), "a": np.empty((0, 4))}, ValueError, "it is empty"),
        ({"activation": "cube"}, ValueError, "unknown activation 'cube'; choose one of 'identity'"),
        ({"activation": 99}, ValueError, "unknown activation 99"),
        ({"n_threads": 0}, ValueError, "n_threads is 0"),
        ({"scratch": np.empty(0)}, ValueError, "scratch has shape"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    backend: kernels.Backend, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "scratch" in changes and backend.name == "numpy":
        pytest.skip("the reference needs no scratch")
    arguments = forward_arguments(**changes)
    arguments["a"] = np.full_like(arguments["a"], 7)
    with pytest.raises(error, match=message):
        backend.linear_forward(**arguments)
    assert (arguments["a"] == 7).all()


def test_read_only_output_and_overlap_are_refused(backend: kernels.Backend) -> None:
    a = np.empty((2, 4))
    a.flags.writeable = False
    with pytest.raises(ValueError, match="a is read-only"):
        backend.linear_forward(**forward_arguments(a=a))
    square = np.ones((3, 3))
    with pytest.raises(ValueError, match="a shares memory with W"):
        backend.linear_forward(np.ones((3, 3)), square, np.zeros(3), "relu", square)


def test_read_only_inputs_are_taken(backend: kernels.Backend) -> None:
    arguments = forward_arguments()
    for name in ("a_prev", "W", "b"):
        arguments[name].flags.writeable = False
    backend.linear_forward(**arguments)
    np.testing.assert_array_equal(arguments["a"], 3)


@pytest.mark.parametrize("u", [-1e-300, 1.0, np.nan, np.inf])
def test_random_numbers_out_of_range_are_refused(backend: kernels.Backend, u: float) -> None:
    order = np.full(3, 7)
    with pytest.raises(ValueError, match=r"u holds .*; every entry must lie in \[0, 1\)"):
        backend.shuffle(np.array([0, u, 0.5]), order)
    np.testing.assert_array_equal(order, 7)


@pytest.mark.parametrize("order", [[0, 5], [-1, 0]])
def test_row_numbers_out_of_range_are_refused(backend: kernels.Backend, order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"order holds (5|-1); every entry must lie in \[0, 5\)"):
        backend.gather_rows(np.ones((5, 2)), np.array(order), np.empty((2, 2)))
    with pytest.raises(ValueError, match="classes holds 3"):
        backend.gather_classes(np.array([0, 3]), np.array([0, 1]), np.empty((2, 3)))
    indptr = np.array([0, 2, 1])
    with pytest.raises(ValueError, match="indptr must rise"):
        backend.gather_csr_rows(np.ones(1), np.zeros(1, np.int32), indptr, np.array([0]), np.empty((1, 2)))


@pytest.mark.parametrize("indices", [[0, 2, 2, 1], [2, 1, 0, 1]])
def test_csr_samples_of_a_run_must_ascend(backend: kernels.Backend, indices: list[int]) -> None:
    plan, buffers = _training(backend, 2, sparse=True)
    data = {"X_data": np.ones(4, "float32"), "X_indices": np.array(indices, np.int32), "X_indptr": np.array([0, 3, 4])}
    arguments = plan, kernels.step_table(1), np.arange(2), 2, buffers._replace(**data), np.zeros(3)
    with pytest.raises(ValueError, match=r"does not ascend within each sample.*sum_duplicates"):
        backend.train_steps(*arguments)


def test_csr_samples_that_come_again_in_a_batch_need_room(backend: kernels.Backend) -> None:
    if backend.name == "numpy":
        pytest.skip("the reference needs no scratch")
    plan, buffers = _training(backend, 31, sparse=True)
    fullest = int(np.argmax(np.diff(buffers.X_indptr)))
    arguments = plan, kernels.step_table(1), np.full(31, fullest), 31, buffers, np.zeros(3)
    with pytest.raises(ValueError, match=r"scratch has \d+ elements; this plan needs \d+"):
        backend.train_steps(*arguments)


def test_csr_samples_may_be_read_by_any_row(backend: kernels.Backend) -> None:
    """A network that learns to give back its inputs: the targets are the samples as they were gathered."""
    results = []
    for each in (backend, kernels.backend("numpy")):
        plan, buffers = _training(each, 31, sparse=True, sizes=(37, 16, 37))
        gathers = plan["op"] == kernels.Op.GATHER_CSR_ROWS
        plan = plan[plan["op"] != kernels.Op.GATHER_CLASSES]
        plan["barrier"][:1] = 1
        plan["y"][plan["op"] == kernels.Op.OUTPUT_DELTA] = plan["a"][0]
        assert gathers[0]
        steps = kernels.step_table(1, rate=0.01, beta_1=0.9, beta_2=0.9, epsilon=1e-8)
        each.train_steps(plan, steps, np.arange(31), 31, buffers, np.zeros(3))
        results.append(buffers.params)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_losses_that_do_not_fit_the_output_are_refused(backend: kernels.Backend) -> None:
    a = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="needs the output activation 'softmax', got 'logistic'"):
        backend.output_delta(a, a.copy(), np.empty(0), "logistic", "cross_entropy", np.empty_like(a))
    with pytest.raises(ValueError, match="softmax is an output activation"):
        backend.backprop_delta(a, np.ones((2, 2)), a.copy(), "softmax", np.empty((2, 2)))


def test_codes_are_stable() -> None:
    """Codes stand in saved plans and compiled caches: renumbering them would be a silent break."""
    assert {code.name: int(code) for code in Activation} == {
        "IDENTITY": 0, "RELU": 1, "LOGISTIC": 2, "TANH": 3, "SOFTMAX": 4, "EXP": 5, "LEAKY_RELU": 6, "ELU": 7,
        "SELU": 8, "SOFTPLUS": 9, "SIGN": 10, "GELU": 11, "SILU": 12, "RELU_AT_ZERO": 13, "CUSTOM": 14,
        "KEPT": 15,
    }  # fmt: skip
    losses = ["SQUARED_ERROR", "CROSS_ENTROPY", "BINARY_CROSS_ENTROPY", "POISSON", "CUSTOM"]
    assert [code.name for code in Loss] == losses
    names = ["SGD", "MOMENTUM", "NESTEROV", "ADAM", "NADAM", "RMSPROP", "ADAGRAD"]
    assert [code.name for code in Optimizer] == names


def test_public_names_are_importable() -> None:
    assert set(fastbp.__all__) == {*fastbp._HOMES, *fastbp._MODULES, "__version__"}
    for name in fastbp.__all__:
        assert getattr(fastbp, name) is not None


def test_auto_without_any_compiled_backend_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTBP_BACKEND", raising=False)
    monkeypatch.setattr(kernels, "_why_not", lambda name: f"no {name} here")
    with pytest.raises(ImportError, match=r"numba: no numba here.*backend='numpy' works"):
        kernels.resolve("auto")


def test_importing_fastbp_is_cheap() -> None:
    """Neither a compiler nor what draws, reads tables or estimates is imported before it is used."""
    program = "import sys, fastbp; print(*sorted(m for m in sys.modules if '.' not in m))"
    where = str(Path(fastbp.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {
        "numba",
        "llvmlite",
        "rich",
        "matplotlib",
        "pandas",
        "pyarrow",
        "cupy",
        "cuda",
        "torch",
        "sklearn",
        "scipy",
    }
    assert not heavy & set(done.stdout.split())


def plan_arguments(backend: kernels.Backend, activation: str = "relu", **options: Any) -> dict[str, Any]:
    """Arguments of a run by hand: Adam, one hidden layer, weights for the samples."""
    net = fastbp.Network((5, 4, 3), activation, dtype="float64", random_state=0, backend=backend.name, **options)
    trainer = fastbp.Trainer(net, batch_size=4, backend=backend.name)
    run = trainer._run(trainer._data(np.ones((8, 5)), np.eye(3)[np.arange(8) % 3], np.ones(8)), {})
    steps = kernels.step_table(2, rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=1e-8)
    losses = np.zeros(3)
    plan, order = run.plan.rows.copy(), np.arange(8)
    arguments = {"plan": plan, "steps": steps, "order": order, "batch_size": 4}
    return {**arguments, "buffers": run.buffers, "losses": losses}


@pytest.mark.parametrize(
    "field", ["a", "a_prev", "W", "b", "delta", "delta_prev", "y", "weight", "n_in", "n_out", "op"]
)
@pytest.mark.parametrize("value", [-(2**40), -2, 2**40, 2**62])
def test_a_plan_that_leaves_its_buffers_is_refused(backend: kernels.Backend, field: str, value: int) -> None:
    for number in range(len(plan_arguments(backend)["plan"])):
        arguments = plan_arguments(backend)
        row = arguments["plan"][number]
        if row[field] == kernels.NONE or (field.startswith("n_") and row[field] == 0):
            continue
        if (row["op"] == kernels.Op.BACKPROP_DELTA and field == "b") or (row["op"] <= 2 and field == "n_in"):
            continue
        row[field] = value
        with pytest.raises(ValueError, match="plan"):
            backend.train_steps(**arguments)


BETWEEN_LAYERS = {"activation": "maxout", "batch_norm": True, "dropout": 0.5}
"""A network that has all that may stand between layers."""


@pytest.mark.parametrize(
    "field",
    ["a", "a_prev", "saved", "W", "b", "delta", "delta_prev", "mean", "variance", "rstd", "n_in", "n_out", "op"],
)
@pytest.mark.parametrize("value", [-(2**40), -2, 2**40, 2**62])
def test_what_stands_between_layers_must_not_leave_its_buffers(
    backend: kernels.Backend, field: str, value: int
) -> None:
    ops, seen = kernels.Op, 0
    between = ops.BATCH_NORM, ops.MAXOUT, ops.DROPOUT, ops.MAXOUT_DELTA, ops.BATCH_NORM_DELTA
    plan = plan_arguments(backend, **BETWEEN_LAYERS)["plan"]
    assert set(between) <= set(plan["op"])
    for number in np.flatnonzero(np.isin(plan["op"], between)):
        arguments = plan_arguments(backend, **BETWEEN_LAYERS)
        row = arguments["plan"][number]
        is_read = row["op"] == ops.BATCH_NORM or field not in ("mean", "variance")
        if row[field] == kernels.NONE or (field.startswith("n_") and row[field] == 0) or not is_read:
            continue
        row[field], seen = value, seen + 1
        with pytest.raises(ValueError, match="plan"):
            backend.train_steps(**arguments)
    assert seen


@pytest.mark.parametrize(
    ("op", "field", "value", "message"),
    [
        ("BATCH_NORM", "epsilon", -1e-9, "epsilon -1e-09; pass a finite number of at least 0"),
        ("BATCH_NORM", "epsilon", np.nan, "epsilon nan"),
        ("BATCH_NORM", "momentum", 1.5, r"momentum 1.5; pass a number in \[0, 1\]"),
        ("BATCH_NORM", "b", kernels.NONE, r"needs those from -1 \(b\)"),
        ("BATCH_NORM", "activation", Activation.SOFTMAX, "softmax, which is no function of single numbers"),
        ("BATCH_NORM", "activation", Activation.KEPT, "'kept', which is no function"),
        ("BATCH_NORM_DELTA", "optimizer", 99, "unknown optimizer 99"),
        ("MAXOUT", "n_in", 7, "a multiple of n_out"),
        ("DROPOUT", "probability", 0.0, r"probability 0.0; pass a number in \(0, 1\]"),
        ("DROPOUT", "stream", 65536, r"stream 65536; pass a whole number in \[0, 65536\)"),
    ],
)
def test_rows_between_layers_with_bad_numbers_are_refused(
    backend: kernels.Backend, op: str, field: str, value: Any, message: str
) -> None:
    arguments = plan_arguments(backend, **BETWEEN_LAYERS)
    row = np.flatnonzero(arguments["plan"]["op"] == kernels.Op[op])[0]
    arguments["plan"][field][row] = value
    with pytest.raises(ValueError, match=message):
        backend.train_steps(**arguments)


@pytest.mark.parametrize(("field", "value"), [("seed", -1), ("seed", 2.0**53), ("seed", 0.5), ("number", 2.0**48)])
def test_draws_that_the_generator_cannot_take_are_refused(backend: kernels.Backend, field: str, value: float) -> None:
    arguments = plan_arguments(backend, **BETWEEN_LAYERS)
    arguments["steps"][field] = value
    with pytest.raises(ValueError, match=f"steps has the {field} .* whole numbers in"):
        backend.train_steps(**arguments)


def test_a_run_that_is_not_unpacked_changed_no_parameter(backend: kernels.Backend) -> None:
    """Neither weights nor gamma, beta, running means and variances; unpacked, it changed them all."""
    arguments = plan_arguments(backend, **BETWEEN_LAYERS)
    buffers, module = arguments["buffers"], backend.module
    if not module.PACKS:
        pytest.skip("this backend works on the parameters themselves")
    buffers = arguments["buffers"] = buffers._replace(X=np.random.default_rng(0).standard_normal(buffers.X.shape))
    before = buffers.params.copy()
    module.pack(arguments["plan"], buffers)
    module.train_steps(**arguments)
    np.testing.assert_array_equal(buffers.params, before)
    module.unpack(arguments["plan"], buffers)
    layout = fastbp.Network((5, 4, 3), "maxout", batch_norm=True).layout
    changed = buffers.params != before
    for part in (*layout.weights(changed), *layout.gammas(changed), *layout.means(changed), *layout.variances(changed)):
        assert part.any()


@pytest.mark.parametrize("name", ["params", "m", "v", "work", "scratch", "y", "sample_weight", "X"])
def test_buffers_too_small_for_the_plan_are_refused(backend: kernels.Backend, name: str) -> None:
    if name == "scratch" and backend.name == "numpy":
        pytest.skip("the reference needs no scratch")
    arguments = plan_arguments(backend)
    buffers = arguments["buffers"]
    arguments["buffers"] = buffers._replace(**{name: getattr(buffers, name)[:0].copy()})
    with pytest.raises(ValueError, match=r"plan|order"):
        backend.train_steps(**arguments)


@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_none_is_refused_for_every_array(backend: kernels.Backend, operation: str) -> None:
    from fastbp.bench.operations import _ARGUMENTS, Draws, Options

    options = Options()
    for name in _ARGUMENTS[operation](Draws(options, "float64", "float64"), options, backend):
        arguments = _ARGUMENTS[operation](Draws(options, "float64", "float64"), options, backend)
        arguments[name] = None
        with pytest.raises((TypeError, ValueError), match=name):
            getattr(backend, operation)(**arguments)


def test_a_bias_without_moments_is_refused(backend: kernels.Backend) -> None:
    a_prev, delta, W, b = np.ones((7, 5)), np.ones((7, 3)), np.ones((5, 3)), np.ones(3)
    for moments in ((np.empty(0), np.ones(3)), (np.ones(3), np.empty(0))):
        state = W.copy(), moments[0], W.copy(), moments[1]
        with pytest.raises(ValueError, match=r"has shape \(0,\); pass \w_b of shape \(3,\), as b"):
            backend.linear_update(a_prev, delta, "adam", kernels.step_table(1), W, b, *state)


def functions(*codes: Activation) -> tuple[kernels.ActivationFunction, ...]:
    return tuple(kernels.activation_function(code) for code in codes)


def _training(
    backend: kernels.Backend, n: int = 31, sparse: bool = False, sizes: tuple[int, ...] = (37, 32, 11)
) -> tuple[Any, kernels.Buffers]:
    layout, activations = Layout(sizes), functions(Activation.RELU, Activation.SOFTMAX)
    form, X = Data(sparse, classes=True), np.ones((n, 37), "float32")
    plan = training_plan(layout, activations, kernels.Loss.CROSS_ENTROPY, kernels.Optimizer.ADAM, n, form)
    data = {**no_data("float32", 37, 11), "X": X, "classes": np.zeros(n, np.int64)}
    if sparse:
        data |= as_features(scipy.sparse.csr_array(X * (np.random.default_rng(0).random(X.shape) < 0.3)), "float32")
    state = {name: np.ones(layout.size, "float32") for name in ("params", "m", "v", "grads")}
    return plan.rows.copy(), run_buffers(plan, backend, data, state, 1)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_plan_may_have_its_rows_in_another_order(backend: kernels.Backend, sparse: bool) -> None:
    """It computes something else then, but only within its buffers."""
    plan, buffers = _training(backend, sparse=sparse)
    border = 4096
    guarded = {}
    for name in ("work", "scratch"):
        size = getattr(buffers, name).size
        guarded[name] = np.full(size + 2 * border, 7, "float32")
        guarded[name][border : border + size] = 0
    inside = {name: array[border : array.size - border] for name, array in guarded.items()}
    buffers = buffers._replace(**inside)
    steps = kernels.step_table(1, rate=0.01, epsilon=1e-8)
    for turn in range(len(plan)):
        with np.errstate(all="ignore"):
            backend.train_steps(np.roll(plan, turn), steps, np.arange(31), 31, buffers, np.zeros(3))
        for array in guarded.values():
            assert (array[:border] == 7).all()
            assert (array[array.size - border :] == 7).all()


@pytest.mark.parametrize(("field", "name"), [("activation", "Activation"), ("loss", "Loss"), ("source", "Source")])
def test_a_plan_with_an_unknown_code_is_refused(backend: kernels.Backend, field: str, name: str) -> None:
    plan, buffers = _training(backend)
    plan[field] = 99
    with pytest.raises(ValueError, match=rf"unknown {field} 99; pass a code of fastbp.kernels.{name}"):
        backend.train_steps(plan, kernels.step_table(1), np.arange(31), 31, buffers, np.zeros(3))


def test_only_the_last_layer_of_a_prediction_writes_to_out(backend: kernels.Backend) -> None:
    layout, activations = Layout((4, 2)), functions(Activation.IDENTITY)
    plan = prediction_plan(layout, activations, 3, Data())
    data = {**no_data("float64", 4, 2), "X": np.ones((3, 4))}
    buffers, rows = run_buffers(plan, backend, data, {"params": np.ones(layout.size)}, 1), plan.rows.copy()
    rows[0]["a"] = kernels.NONE
    with pytest.raises(ValueError, match="row 0 of the plan, gather_rows, needs those from -1"):
        backend.predict(rows, np.arange(3), 3, buffers, np.zeros((3, 2)))


ZEROS = 0, 0, 0
"""What an activation without numbers has for them."""


@pytest.mark.parametrize(
    "layers",
    [
        [[3, 2, 0, 6, 99]],
        [[3, 2, 1, kernels.NONE, 0]],
        [[3, 2, -1, kernels.NONE, 0]],
        [[3, 2, 0, 5, 0]],
        [[3, 0, 0, kernels.NONE, 0]],
        [[3, 1, 0, kernels.NONE, 0], [2, 1, 3, kernels.NONE, 0]],
        [[2**62, 4, 0, kernels.NONE, 0]],
        [[3, 2, 0, kernels.NONE, 0, *ZEROS, 0]],
        [[3, 2, 0, kernels.NONE, 0, *ZEROS, 3]],
        [[3, 1, 0, 3, 0, *ZEROS, 1, 4, 5, 6]],
        [[3, 1, 0, 3, 0, *ZEROS, 1, 4, kernels.NONE, 5]],
        [[3, 1, 0, kernels.NONE, 0, *ZEROS, 1, 3, 4, 5]],
        [[3, 1, 0, 3, 0, *ZEROS, 1, 4, 5, 5, int(np.float64(-1).view(np.int64))]],
    ],
)
def test_layers_beyond_the_parameters_are_refused(backend: kernels.Backend, layers: list[list[int]]) -> None:
    arrays = np.zeros(3), np.zeros(6)
    out, rest = np.zeros(layers[-1][1] or 1), [*ZEROS, 1, *[kernels.NONE] * 3, 0]
    with pytest.raises(ValueError, match=r"layers|activation"):
        backend.predict_rows(np.array([[*layer, *rest[len(layer) - 5 :]] for layer in layers]), *arrays, out)


def test_a_table_of_layers_with_too_few_columns_is_refused(backend: kernels.Backend) -> None:
    with pytest.raises(ValueError, match=r"layers has shape \(1, 8\); pass a row of 13 numbers for each layer"):
        backend.predict_rows(np.zeros((1, 8), np.int64), np.zeros(3), np.zeros(6), np.zeros(2))
