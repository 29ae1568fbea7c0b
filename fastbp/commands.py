"""What the commands of the command line do, from options to output; `fastbp.cli` knows the options.

Each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def info(options: argparse.Namespace) -> None:
    """Print what fastbp finds on this machine."""
    from . import environment, kernels
    from .terminal import show_pairs, show_table

    found = environment.describe()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    threads, cython, numba = found["threads"], found["cython"], found["numba"]
    usable = f"{threads['usable']} of {threads['processors']} processors"
    show_pairs(
        [
            ("fastbp", found["fastbp"]),
            ("Python", f"{found['python']} on {found['system']}"),
            ("processor", found["cpu"]["model"]),
            ("features", " ".join(found["cpu"]["features"]) or "unknown"),
            (
                "threads",
                f"{usable} may be used; OMP_NUM_THREADS is {threads['OMP_NUM_THREADS'] or 'not set'}",
            ),
            ("", f"fastbp takes up to {threads['fastbp_default']} unless n_threads is given"),
            ("backend auto", found["auto_backend"]),
        ]
    )
    print()
    details = {
        "cython": _cython_details(cython),
        "numba": f"vectors of {numba['vector_bits']} bits; compiled code is kept in {numba['cache'] or 'memory'}",
        "cuda": _gpu_details(found["gpu"]),
    }
    rows = [
        (name, f"{state}; {details[name]}" if state == kernels.AVAILABLE and name in details else state)
        for name, state in found["backends"].items()
    ]
    show_table(("backend", "state"), rows)
    versions = found["libraries"].items()
    show_table(("library", "version"), [(name, version or "not installed") for name, version in versions])


def _cython_details(cython: dict[str, Any]) -> str:
    others = ", ".join(cython["instruction_sets"])
    built = " and ".join(filter(None, [cython["cython"] and f"Cython {cython['cython']}", cython["compiler"]]))
    return f"instruction set {cython['instruction_set']} of {others}" + (f"; built with {built}" if built else "")


def _gpu_details(gpu: dict[str, Any]) -> str:
    if gpu["compute_capability"] is None:
        return str(gpu["name"])
    size = f"{gpu['multiprocessors']} multiprocessors, {gpu['memory'] / 1e9:.0f} GB"
    ways = f"steps of up to {gpu['walked_flops'] / 1e6:g} MFLOP by one kernel, others by a graph of kernels"
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}, {size}; {ways}"


def demo(options: argparse.Namespace) -> None:
    """Learn digits beside scikit-learn; print a table, write a plot."""
    from . import demo
    from .files import check_writable
    from .terminal import show_table

    check_writable(options.out)
    result = demo.run(options.seed, options.max_iter, options.backend)
    learners = (result.fastbp, result.sklearn)
    rows = [
        (
            learner.name,
            f"{learner.median_seconds:.3f} s ({min(learner.seconds):.3f} to {max(learner.seconds):.3f})",
            f"{learner.first_seconds:.3f} s",
            f"{learner.model.loss_:.6f}",
            f"{learner.accuracy:.2%}",
        )
        for learner in learners
    ]
    columns = ("", f"time (median of {demo.ROUNDS})", "first fit", "final loss", "test accuracy")
    sizes = f"{result.n_train} to train on, {result.n_test} to test"
    title = f"Handwritten digits: {sizes}, {options.max_iter} epochs, network 64-100-10"
    show_table(columns, rows, title=title, numbers=(1, 2, 3, 4))
    print(
        f"fastbp is {result.speedup:.1f} times as fast (the first fit, with what it loads or compiles, is not counted)."
    )
    print(f"Largest difference of the loss curves: {result.largest_difference:.1e}")
    try:
        demo.draw(result, options.out)
    except ImportError as error:
        print(f"No plot: {error}")
    else:
        print(f"Loss curves: {options.out}")


def train(options: argparse.Namespace) -> None:
    """Train on a table, print the held-out score, write the model file."""
    from . import kernels, tabular
    from .files import check_writable
    from .io import save
    from .tables import read_table

    _refuse_overwriting(options.out, options.data)
    check_writable(options.out)
    kernels.backend(options.backend)  # before anything takes long
    _refuse_target(options)
    columns = read_table(options.data, exclude=options.exclude, text=options.categorical, separator=options.separator)
    for name in options.categorical:
        if name not in columns:
            raise ValueError(f"--categorical names {name!r}; the table has {', '.join(map(repr, columns))}")
    trained = tabular.train(
        columns,
        options.target,
        task=options.task,
        categorical=options.categorical,
        test_fraction=options.test_fraction,
        dtype=options.dtype,
        hidden_layer_sizes=options.hidden,
        activation=options.activation,
        batch_norm=options.batch_norm,
        dropout=options.dropout,
        solver=options.optimizer,
        alpha=options.alpha,
        batch_size=options.batch_size or "auto",
        learning_rate_init=options.learning_rate,
        max_iter=options.epochs,
        random_state=options.seed,
        backend=options.backend,
        n_threads=options.threads,
        progress=True,
    )
    trained.model.set_params(progress=False)
    save(trained.model, options.out, preprocessing=trained.preprocessing)
    _show_trained(trained, options)


def _refuse_target(options: argparse.Namespace) -> None:
    for name in ("exclude", "categorical"):
        if options.target in getattr(options, name):
            raise ValueError(f"--{name} names the target {options.target!r}; take it out of --{name}")


def _refuse_overwriting(out: Path, data: Path) -> None:
    if out.exists() and data.exists() and out.samefile(data):
        raise ValueError(f"--out {out} is the table itself; choose another file")


def _show_trained(trained: Any, options: argparse.Namespace) -> None:
    from . import kernels
    from .tabular import MEASURES
    from .terminal import show_pairs

    model, preprocessing = trained.model, trained.preprocessing
    score = "none: too few rows were held out"
    if trained.score is not None:
        score = f"{MEASURES[preprocessing.target.task]} {trained.score:.4f}"
    if trained.baseline is not None:
        score += f" (always the most frequent class: {trained.baseline:.4f})"
    show_pairs(
        [
            ("task", f"{preprocessing.target.task} ({trained.reason})"),
            ("rows", f"{trained.n_train} to train on, {trained.n_test} held out"),
            ("inputs", f"{preprocessing.n_inputs} from {len(preprocessing.features)} columns"),
            ("network", f"{_network_text(model)}, {model.coefs_[0].dtype}, backend {kernels.resolve(model.backend)}"),
            ("epochs", f"{model.n_iter_} of at most {options.epochs} in {trained.seconds:.2f} s"),
            ("training loss", f"{model.loss_:.6g}"),
            ("held-out score", score),
            ("model file", options.out),
        ]
    )


def _network_text(model: Any) -> str:
    """Return a trained estimator's sizes and what stands in its hidden layers."""
    from .fitted import layout_of

    parts = ["-".join(map(str, layout_of(model).layer_sizes)), model.activation]
    parts += ["batch norm"] if model.batch_norm else []
    parts += [f"dropout (kept with probability {model.dropout:g})"] if model.dropout else []
    return ", ".join(parts)


def predict(options: argparse.Namespace) -> None:
    """Print or write predictions for a table; where it has answers, a score on stderr."""
    from . import io, tabular
    from .trainer import Trainer

    if options.out is not None:
        _check_predictions_file(options)
    file = io.read(options.model)
    model = file.model.network if isinstance(file.model, Trainer) else file.model
    if options.proba and not hasattr(model, "predict_proba"):
        raise ValueError(f"{options.model} holds a {type(model).__name__}, which gives no probabilities; omit --proba")
    columns = _read_for(file.preprocessing, options)
    predictions, X = tabular.predict(model, file.preprocessing, columns, file.standardizer)
    probabilities = model.predict_proba(X) if options.proba else None
    table = _prediction_table(file.preprocessing, model, predictions, probabilities)
    if options.out is None:
        _write_csv(table, sys.stdout)
    else:
        from .files import replacing

        with replacing(options.out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            _write_csv(table, stream)
    found = None if file.preprocessing is None else tabular.measure(predictions, file.preprocessing, columns)
    if found is not None:
        name, value, n_rows = found
        sys.stdout.flush()
        print(f"{name} {value:.4f} on {n_rows} rows", file=sys.stderr)


def _check_predictions_file(options: argparse.Namespace) -> None:
    from .files import check_writable

    if options.out.suffix.lower() != ".csv":
        raise ValueError(f"--out is {options.out}; predictions are written as CSV, so let its name end in .csv")
    for source in (options.data, options.model):
        _refuse_overwriting(options.out, source)
    check_writable(options.out)


def _read_for(preprocessing: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Read the columns that a model needs, in the types that it was trained on."""
    from .tables import read_table

    if preprocessing is None:
        return read_table(options.data, separator=options.separator)
    texts = {feature.name for feature in preprocessing.features if feature.scale is None}
    wanted = {feature.name for feature in preprocessing.features} | {preprocessing.target.name}
    table = read_table(options.data, only=wanted, text=texts, separator=options.separator)
    if not table:
        raise ValueError(f"{options.data} has none of the columns that the model was trained on")
    return table


def _prediction_table(preprocessing: Any, model: Any, predictions: Any, probabilities: Any) -> Iterator[list[str]]:
    """Yield the rows of the table of predictions, headings first."""
    name = "prediction" if preprocessing is None else preprocessing.target.name
    columns = [predictions] if predictions.ndim == 1 else list(predictions.T)
    headings = [name] if predictions.ndim == 1 else [f"{name}_{i}" for i in range(len(columns))]
    if probabilities is not None:
        columns += list(probabilities.T)
        headings += [f"proba_{label}" for label in getattr(model, "classes_", range(probabilities.shape[1]))]
    yield headings
    for row in zip(*columns, strict=True):
        yield [str(value) for value in row]


def inspect(options: argparse.Namespace) -> None:
    """Print what a model file holds."""
    from . import inspection
    from .terminal import show_pairs, show_table

    found = inspection.describe(options.model)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    written_by = ", ".join(f"{name} {version}" for name, version in found["written_by"].items())
    pairs = [
        ("file", f"{found['file']}, {found['bytes']} bytes"),
        ("kind", found["kind"]),
        (
            "parameters",
            f"{found['n_parameters']} of {found['dtype']}" if found["layers"] else "none: it is not fitted",
        ),
        *((name, _listed(found[name])) for name in ("optimizer", "training") if name in found),
        ("SHA-256", f"{found['sha256']} (verified)"),
        ("written by", written_by),
    ]
    if "inputs_kept" in found:
        pairs.insert(3, ("dropout", f"an input is kept with probability {found['inputs_kept']:g}"))
    show_pairs(pairs)
    if found["layers"]:
        rows = [
            (number, layer["inputs"], layer["outputs"], _layer_text(layer), layer["parameters"])
            for number, layer in enumerate(found["layers"], 1)
        ]
        show_table(("layer", "inputs", "outputs", "activation", "parameters"), rows, numbers=(0, 1, 2, 4))
    if found["standardizer"]:
        show_pairs([("normalised", f"{found['standardizer']['n_inputs']} inputs")], title="standardizer")
    if found["preprocessing"]:
        show_pairs(_preprocessing_pairs(found), title="preprocessing")


def _layer_text(layer: dict[str, Any]) -> str:
    """Return a layer's activation with what stands around it, in the order of the forward pass."""
    parts = ["batch norm"] if "batch_norm" in layer else []
    parts.append(f"maxout of {layer['pieces']} pieces" if "pieces" in layer else layer["activation"])
    if "kept" in layer:
        parts.append(f"dropout (kept with probability {layer['kept']:g})")
    return ", ".join(parts)


def _preprocessing_pairs(found: dict[str, Any]) -> list[tuple[str, str]]:
    preprocessing = found["preprocessing"]
    categories = ", ".join(f"{name} ({n})" for name, n in preprocessing["categories"].items())
    pairs = [
        ("target", f"{preprocessing['target']} ({preprocessing['task']})"),
        ("inputs", str(preprocessing["n_inputs"])),
        ("normalised", ", ".join(preprocessing["numbers"]) or "none"),
        ("one-hot", categories or "none"),
    ]
    if "classes" in found:
        pairs.insert(1, ("classes", ", ".join(map(str, found["classes"]))))
    return pairs


def _listed(values: dict[str, Any]) -> str:
    texts = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _write_csv(rows: Iterator[list[str]], stream: IO[str]) -> None:
    csv.writer(stream, lineterminator="\n").writerows(rows)


def compare(options: argparse.Namespace) -> int:
    """Print what two backends make of every operation; return 1 where one is wrong or too slow."""
    from . import cli, kernels
    from .bench import show
    from .bench.cases import SHAPES, Shape, cases
    from .bench.comparison import compare
    from .files import check_writable

    if options.json is not None:
        check_writable(options.json)
    backends = [kernels.backend(name) for name in (options.first, options.second)]
    shapes = SHAPES if options.shapes is None else [Shape(*shape) for shape in options.shapes]
    chosen = cases(options.operations or kernels.OPERATIONS, options.dtype, shapes)
    found = show.collect(compare(backends, chosen, options.rounds), len(chosen))
    show.comparisons(found, [backend.name for backend in backends], options.fail_slower)
    if options.json is not None:
        show.write(found, options.json)
    if len(found) < len(chosen):
        return cli.INTERRUPTED
    return 1 if show.failures(found, options.fail_slower) else 0
