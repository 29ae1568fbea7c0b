"""The command line: ``fastbp info | demo | train | predict | inspect | compare``.

What a command needs is imported when it runs: ``fastbp --help`` answers at once.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import __version__, commands

_DESCRIPTION = "Train multilayer perceptrons on tables, and see what fastbp does on this machine."
_EPILOG = """\
examples:
  fastbp demo                                          handwritten digits beside scikit-learn
  fastbp train iris.csv --target species               writes model.safetensors
  fastbp predict model.safetensors new.csv --out predictions.csv
  fastbp inspect model.safetensors
  fastbp compare numba cython                          every operation: errors in ulp, times
  python -m fastbp script.py                           a scikit-learn script, accelerated
"""

_ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "tanh",
    "logistic",
    "identity",
    "maxout",
)

_BACKENDS = ("auto", "cython", "numba", "numpy", "cuda")

_Number = TypeVar("_Number", int, float)

INTERRUPTED, BROKEN_PIPE, FAILED = 130, 141, 2
"""Exit codes: 128 plus the signal's number, as shells report them; and what argparse uses for wrong usage."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; `sys.argv`'s if left out.

    Returns
    -------
    int
        0; 1 where a comparison fails; 2 for wrong usage or input, with one line on stderr that says what to do; 130
        after Ctrl-C.
    """
    parser = make_parser()
    with _warnings_in_one_line():
        try:
            options = parser.parse_args(argv)
            if options.command is None:
                parser.print_help()
                code = 0
            else:
                code = options.run(options) or 0
            sys.stdout.flush()
        except SystemExit as end:  # argparse's own: --help, --version, wrong usage
            return end.code if isinstance(end.code, int) else FAILED
        except BrokenPipeError:
            return _close_stdout()
        except KeyboardInterrupt:
            print("fastbp: interrupted; no file was written", file=sys.stderr)
            return INTERRUPTED
        except (ValueError, OSError, ImportError) as error:
            print(f"fastbp: error: {_one_line(error)}", file=sys.stderr)
            return FAILED
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="fastbp",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for add in (_add_info, _add_demo, _add_train, _add_predict, _add_inspect, _add_compare):
        add(subparsers)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"fastbp: error: {message}; see: {self.prog} --help\n")


# ------------------------------------------------------------------------------------------------- options


def _add_info(subparsers: Any) -> None:
    text = "Show version, processor, threads, backends (and why one is not available) and library versions."
    parser = subparsers.add_parser("info", help="what fastbp finds on this machine", description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=commands.info)


def _add_demo(subparsers: Any) -> None:
    text = (
        "Train on scikit-learn's bundled handwritten digits with fastbp and with scikit-learn, from the same seed; "
        "print times, losses and accuracies, and draw the loss curves."
    )
    parser = subparsers.add_parser("demo", help="digits, beside scikit-learn", description=text)
    parser.add_argument(
        "--out", metavar="PNG", type=Path, default="fastbp-demo.png", help="plot (default: %(default)s)"
    )
    parser.add_argument("--max-iter", metavar="N", type=_count, default=100, help="epochs (default: %(default)s)")
    _add_common(parser)
    parser.set_defaults(run=commands.demo)


def _add_train(subparsers: Any) -> None:
    text = (
        "Train a network on a table (.csv, .parquet, .npz) to predict one of its columns, score it on rows held out at "
        "random, and save it. Texts become one input for each of their values, numbers are normalised by the mean and "
        "deviation of the training rows; both are kept in the model file. Missing values are refused. Training ends "
        "sooner than --epochs when the loss no longer falls."
    )
    parser = subparsers.add_parser("train", help="a model from a table", description=text)
    parser.add_argument("data", type=Path, help="table: .csv (also .csv.gz), .parquet or .npz")
    parser.add_argument("--target", metavar="COLUMN", required=True, help="the column to predict")
    parser.add_argument("--out", metavar="FILE", type=Path, default="model.safetensors", help="default: %(default)s")
    data = parser.add_argument_group("data")
    tasks = ("auto", "classification", "regression")
    why = "auto: text, true/false and few whole numbers are classes (default: %(default)s)"
    data.add_argument("--task", choices=tasks, default="auto", help=why)
    data.add_argument("--exclude", metavar="COLUMNS", type=_names, default=(), help="columns to leave out: id,date")
    help_text = "columns of numbers that are categories: zip,month"
    data.add_argument("--categorical", metavar="COLUMNS", type=_names, default=(), help=help_text)
    help_text = "part of the rows held out for the score (default: %(default)s)"
    data.add_argument("--test-fraction", metavar="F", type=_fraction, default=0.2, help=help_text)
    _add_separator(data)
    _add_network_options(parser.add_argument_group("network and training"))
    _add_common(parser)
    parser.add_argument("--threads", metavar="N", type=_count, help="threads that the kernels may use")
    parser.set_defaults(run=commands.train)


def _add_network_options(group: Any) -> None:
    help_text = "units of the hidden layers, or none (default: 100)"
    group.add_argument("--hidden", metavar="UNITS", type=_hidden, default=(100,), help=help_text)
    help_text = "of the hidden layers; maxout has two pieces (default: %(default)s)"
    group.add_argument("--activation", choices=_ACTIVATIONS, default="relu", help=help_text)
    help_text = "normalise what hidden units take in over each step's samples; not with lbfgs"
    group.add_argument("--batch-norm", action="store_true", help=help_text)
    help_text = "keep a hidden unit in a step with probability P, drop it otherwise; not with lbfgs"
    group.add_argument("--dropout", metavar="P", type=_probability, help=help_text)
    group.add_argument("--epochs", metavar="N", type=_count, default=200, help="at most (default: %(default)s)")
    help_text = "samples in a step (default: 200, or all if there are fewer)"
    group.add_argument("--batch-size", metavar="N", type=_count, help=help_text)
    group.add_argument("--learning-rate", metavar="R", type=_positive, default=1e-3, help="default: %(default)s")
    help_text = "sgd has Nesterov's momentum 0.9 (default: %(default)s)"
    group.add_argument("--optimizer", choices=("adam", "sgd", "lbfgs"), default="adam", help=help_text)
    group.add_argument(
        "--alpha", metavar="A", type=_not_negative, default=1e-4, help="L2 penalty (default: %(default)s)"
    )
    help_text = "of inputs and weights (default: %(default)s)"
    group.add_argument("--dtype", choices=("float32", "float64"), default="float32", help=help_text)


def _add_predict(subparsers: Any) -> None:
    text = (
        "Predict with a model file. Columns are matched by name, in any order; others are ignored. Where the table has "
        "the target too, a score is printed on stderr."
    )
    parser = subparsers.add_parser("predict", help="predictions for a table", description=text)
    parser.add_argument("model", type=Path, help="file that `fastbp train` or fastbp.save wrote")
    parser.add_argument("data", type=Path, help="table: .csv (also .csv.gz), .parquet or .npz")
    parser.add_argument("--out", metavar="CSV", type=Path, help="write here instead of printing")
    parser.add_argument("--proba", action="store_true", help="add the probability of each class")
    _add_separator(parser)
    parser.set_defaults(run=commands.predict)


def _add_inspect(subparsers: Any) -> None:
    text = "Show a model file's architecture, parameters, optimiser and preprocessing; its hash is verified."
    parser = subparsers.add_parser("inspect", help="what a model file holds", description=text)
    parser.add_argument("model", type=Path, help="file that `fastbp train` or fastbp.save wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=commands.inspect)


def _add_compare(subparsers: Any) -> None:
    text = (
        "Run every operation on two backends: their largest errors from the float64 reference and from each other, in "
        "units in the last place (ulp) of the array's largest element, then their times by turns, as the median of "
        "paired ratios with its 99 % interval. 'faster' and 'slower' say of the second backend what noise alone could "
        "not make. The exit code is 1 where a result is wrong, or slower than --fail-slower allows."
    )
    parser = subparsers.add_parser("compare", help="two backends, operation by operation", description=text)
    for name in ("first", "second"):
        parser.add_argument(name, choices=_BACKENDS, help="backend")
    help_text = "operations to compare: linear_forward,linear_update (default: all)"
    parser.add_argument("--operations", metavar="NAMES", type=_operations, help=help_text)
    help_text = "of numbers: float32,float64 (default: both)"
    parser.add_argument("--dtype", metavar="NAMES", type=_dtypes, default=("float32", "float64"), help=help_text)
    help_text = "layers and mini-batches, like 784-128:32,10-64:64 (default: six of common networks)"
    parser.add_argument("--shapes", metavar="I-O:B", type=_shapes, help=help_text)
    help_text = "timings of each, at least 8 (default: %(default)s)"
    parser.add_argument("--rounds", metavar="N", type=_rounds, default=15, help=help_text)
    help_text = "exit with 1 where the second backend surely takes more than R times as long"
    parser.add_argument("--fail-slower", metavar="R", type=_factor, help=help_text)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything here, too")
    parser.set_defaults(run=commands.compare)


def _add_common(parser: Any) -> None:
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="random state (default: %(default)s)")
    parser.add_argument("--backend", choices=_BACKENDS, default="auto", help="what computes (default: %(default)s)")


def _add_separator(parser: Any) -> None:
    help_text = "what stands between a CSV file's values (default: comma)"
    parser.add_argument("--separator", metavar="C", default=",", help=help_text)


def _count(text: str) -> int:
    return _checked(text, int, lambda value: value >= 1, "a whole number of at least 1")


def _seed(text: str) -> int:
    return _checked(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


def _positive(text: str) -> float:
    return _checked(text, float, lambda value: 0 < value < math.inf, "a number greater than 0")


def _not_negative(text: str) -> float:
    return _checked(text, float, lambda value: 0 <= value < math.inf, "a number of at least 0")


def _fraction(text: str) -> float:
    return _checked(text, float, lambda value: 0 <= value < 1, "a number of at least 0 and less than 1")


def _probability(text: str) -> float:
    return _checked(text, float, lambda value: 0 < value <= 1, "a probability greater than 0 and at most 1")


def _hidden(text: str) -> tuple[int, ...]:
    return () if text.lower() in ("none", "0", "") else tuple(_count(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _rounds(text: str) -> int:
    return _checked(text, int, lambda value: value >= 8, "a whole number of at least 8")


def _factor(text: str) -> float:
    return _checked(text, float, lambda value: 1 <= value < math.inf, "a number of at least 1")


def _operations(text: str) -> tuple[str, ...]:
    from .kernels import OPERATIONS

    return _among(text, OPERATIONS)


def _dtypes(text: str) -> tuple[str, ...]:
    return _among(text, ("float32", "float64"))


def _among(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = _names(text)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted names among {', '.join(known)}")
    return names


def _shapes(text: str) -> tuple[tuple[int, int, int], ...]:
    """Return (B, I, O) of each."""
    found = [re.fullmatch(r"(\d+)-(\d+):(\d+)", part) for part in _names(text)]
    shapes = tuple((int(m[3]), int(m[1]), int(m[2])) for m in found if m is not None)
    if not found or len(shapes) < len(found) or 0 in {size for shape in shapes for size in shape}:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted inputs-outputs:batch, as in 784-128:32,10-64:64")
    return shapes


def _checked(text: str, kind: Callable[[str], _Number], is_valid: Callable[[_Number], bool], wanted: str) -> _Number:
    with suppress(ValueError):
        value = kind(text)
        if is_valid(value):
            return value
    raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")


# ------------------------------------------------------------------------------------------------- streams


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings as the command's own, not as lines of somebody's source code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"fastbp: warning: {_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _close_stdout() -> int:
    """End quietly when whoever read the output has stopped: what Python flushes at exit must go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
