"""``fastbp compare``: two backends, operation by operation. Times are made up: no test depends on the machine's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbp import kernels
from fastbp.bench import comparison
from fastbp.bench.cases import SHAPES, Case, Shape, cases
from fastbp.bench.operations import OUTPUTS, arguments_of, output_arrays
from fastbp.bench.pairs import Ratio, ratio_of, repeats, seconds
from fastbp.bench.show import failures
from fastbp.cli import INTERRUPTED, main

SMALL = Shape(5, 4, 3)


class Twin:
    """A backend, one of whose operations returns or writes something else."""

    def __init__(self, backend: kernels.Backend, operation: str = "", spoil: float = 0.0) -> None:
        self.backend, self.operation, self.spoil = backend, operation, spoil
        self.name = f"twin of {backend.name}"

    def __getattr__(self, name: str) -> Any:
        original = getattr(self.backend, name)
        if name != self.operation:
            return original

        def spoilt(*args: Any, **arguments: Any) -> Any:
            returned = original(*args, **arguments)
            output_arrays(name, arguments)[OUTPUTS[name][0]].flat[-1] += self.spoil
            return returned

        return spoilt


def made_up(monkeypatch: pytest.MonkeyPatch, slow: str = "", factor: float = 1.0) -> None:
    """Let every timing take a second, give or take 2 %, and the second backend's of one operation longer."""

    def times(first: Any, second: Any, case: Case, rounds: int) -> list[tuple[float, float]]:
        longer = factor if case.operation == slow else 1.0
        return [(1.02, 0.98 * longer), (0.98, 1.02 * longer)] * (rounds // 2)

    monkeypatch.setattr(comparison, "_times", times)


def test_a_ratio_says_only_what_noise_cannot() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.uniform(0.8, 1.25, (31, 2)).tolist()
    twice = [(2 * first, second) for first, second in noisy]
    half = [(first, 2 * second) for first, second in noisy]
    assert [ratio_of(times).verdict for times in (noisy, twice, half)] == ["same", "faster", "slower"]
    ratio = ratio_of(half)
    assert ratio.low < ratio.value < ratio.high
    assert ratio.is_slower_than(1.1)
    assert not ratio.is_slower_than(3)
    assert not ratio_of(noisy).is_slower_than(1.1)


def test_few_rounds_say_nothing() -> None:
    assert ratio_of([(2.0, 1.0)] * 7) == Ratio(2.0, 0.0, float("inf"))
    assert ratio_of([(2.0, 1.0)] * 8) == Ratio(2.0, 2.0, 2.0)


def test_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    found = [ratio_of(rng.lognormal(0, 0.2, (15, 2)).tolist()) for _ in range(400)]
    share = np.mean([ratio.low <= 1 <= ratio.high for ratio in found])
    assert 0.98 <= share <= 1


def test_work_is_done_until_a_timing_is_full() -> None:
    done = []
    n = repeats(lambda: done.append(1))
    assert n > 100
    assert seconds(lambda: done.append(1), n) > 0


def test_cases_are_every_operation_in_order() -> None:
    found = cases()
    assert len(found) == len(kernels.OPERATIONS) * 2 * len(SHAPES)
    assert len({str(case) for case in found}) == len(found)
    assert list(dict.fromkeys(case.operation for case in found)) == list(kernels.OPERATIONS)
    assert str(found[0]) == "shuffle/f32/B1/64-32"
    assert [str(case) for case in cases(["predict", "shuffle"], ["float64"], [SMALL])] == [
        "shuffle/f64/B5/4-3",
        "predict/f64/B5/4-3",
    ]


def compared(first: Any, second: Any, chosen: Sequence[Case]) -> list[comparison.Comparison]:
    return list(comparison.compare((first, second), chosen, 8))


def test_two_backends_agree_on_every_operation(backend: kernels.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    chosen = cases(shapes=[SMALL])
    found = compared(kernels.backend("numpy"), backend, chosen)
    assert [each.case for each in found] == chosen
    assert {each.verdict for each in found} == {"same"}
    assert all(error.share <= 1 for each in found for error in each.errors)
    json.dumps([each.as_dict() for each in found], allow_nan=False)


def test_operations_are_timed_by_turns(compiled_name: str) -> None:
    chosen = cases(["sgd_step", "train_steps"], ["float32"], [SMALL])
    found = compared(kernels.backend("numpy"), kernels.backend(compiled_name), chosen)
    assert all(len(each.times) == 8 and min(map(min, each.times)) > 0 for each in found)


def test_arguments_lie_where_chance_puts_them() -> None:
    case = Case("train_steps", "float64", SMALL)
    arguments = arguments_of(kernels.backend("numpy"), case.operation, np.dtype("float64"), np.float64, case.options)
    places = np.random.default_rng(0)
    offsets = set()
    for _ in range(20):
        moved = {name: comparison._moved(value, places) for name, value in arguments.items()}
        for before, after in zip(arguments["buffers"], moved["buffers"], strict=True):
            np.testing.assert_array_equal(after, before)
            assert after.dtype == before.dtype
            assert not after.size or after.ctypes.data % 64 == 0
        assert moved["batch_size"] == arguments["batch_size"]
        offsets.add(moved["buffers"].params.ctypes.data % 4096)
    assert len(offsets) > 5


@pytest.mark.parametrize("spoil", [0.01, float("nan"), float("inf")])
@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_a_wrong_result_is_found_and_not_timed(
    operation: str, spoil: float, compiled_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if OUTPUTS[operation] == ("order",):
        pytest.skip("an order has no place for a small error")
    made_up(monkeypatch)
    backend = kernels.backend(compiled_name)
    (found,) = compared(backend, Twin(backend, operation, spoil), cases([operation], ["float32"], [SMALL]))
    assert found.verdict == comparison.WRONG
    assert found.ratio is None
    assert not found.times
    assert found.errors[1].output == OUTPUTS[operation][0]
    assert found.errors[0].share <= 1
    assert failures([found], None) == [found]
    json.dumps(found.as_dict(), allow_nan=False)


def test_only_what_is_surely_slower_fails(compiled_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, slow="linear_update", factor=1.3)
    backend = kernels.backend(compiled_name)
    found = compared(backend, backend, cases(dtypes=["float32"], shapes=[SMALL]))
    assert not failures(found, None)
    assert [each.case.operation for each in failures(found, 1.1)] == ["linear_update"]
    assert not failures(found, 1.5)


def run(*arguments: str) -> int:
    small = "--operations", "linear_forward,adam_step,predict", "--shapes", "4-3:5", "--rounds", "8"
    return main(["compare", "numpy", "numba", *small, *arguments])


def test_the_command_prints_and_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch)
    out = tmp_path / "compared.json"
    assert run("--json", str(out)) == 0
    printed = capsys.readouterr().out
    written = json.loads(out.read_text(encoding="utf-8"))
    operations = ("linear_forward", "adam_step", "predict")
    names = [f"{name}/{short}/B5/4-3" for name in operations for short in ("f32", "f64")]
    assert [case["case"] for case in written] == names
    assert all(name in printed for name in names)
    assert "error of numba, ulp" in printed
    assert "numba beside numpy: 0 faster, 6 same, 0 slower" in printed
    assert {"errors", "difference", "times", "ratio", "verdict"} < written[0].keys()


def test_the_exit_code_says_whether_something_is_slower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, slow="adam_step", factor=1.3)
    assert run() == 0
    assert run("--fail-slower", "1.5") == 0
    capsys.readouterr()
    assert run("--fail-slower", "1.1", "--dtype", "float32") == 1
    assert "adam_step/f32/B5/4-3: takes 1.30 times as long, surely more than 1.1" in capsys.readouterr().out


def test_a_wrong_result_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    twin, original = Twin(kernels.backend("numba"), "predict", 7.0), kernels.backend
    monkeypatch.setattr(kernels, "backend", lambda name="auto": twin if name == "numba" else original(name))
    assert run("--dtype", "float64") == 1
    printed = capsys.readouterr().out
    assert "predict/f64/B5/4-3: out[10, 2] is 7." in printed
    assert "1 wrong" in printed


def test_what_was_finished_before_ctrl_c_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch)
    original = comparison.compare

    def interrupted(*arguments: Any) -> Iterator[comparison.Comparison]:
        for number, found in enumerate(original(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(comparison, "compare", interrupted)
    out = tmp_path / "compared.json"
    assert run("--json", str(out)) == INTERRUPTED
    assert len(json.loads(out.read_text(encoding="utf-8"))) == 2
    shown = capsys.readouterr()
    assert "2 of 6 cases were finished" in shown.err
    assert "2 same" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--operations", "linear"), "got 'linear', wanted names among shuffle, gather_rows"),
        (("--operations", ""), "wanted names among"),
        (("--dtype", "float16"), "wanted names among float32, float64"),
        (("--shapes", "784:32"), "wanted inputs-outputs:batch"),
        (("--shapes", "784-0:32"), "wanted inputs-outputs:batch"),
        (("--rounds", "7"), "wanted a whole number of at least 8"),
        (("--fail-slower", "0.9"), "wanted a number of at least 1"),
        (("--fail-slower", "nan"), "wanted a number of at least 1"),
        (("--json", "nowhere/compared.json"), "there is no folder"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_: pytest.fail("it ran"))
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_backend_that_is_missing_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    state = kernels.backends()["cuda"]
    if state == kernels.AVAILABLE:
        pytest.skip("there is a GPU")
    assert main(["compare", "numba", "cuda"]) == 2
    assert "backend 'cuda' is not available" in capsys.readouterr().err
    assert main(["compare", "numba", "fortran"]) == 2
    assert "invalid choice: 'fortran'" in capsys.readouterr().err
