"""The launches of one row of a plan: which kernels, of how many blocks, on which numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..contract import NONE, Activation, Op, Source
from . import flat, products, rows, tiles
from .blocks import LANES, TEAMS
from .memory import launch, launch_spread, n_blocks_for
from .toolkit import THREADS, copies_later, n_processors


class Run(NamedTuple):
    """What the kernels of a run work on: arrays on the device, all of them flat but ``steps``."""

    cursor: Any
    batch_size: int
    order: Any
    steps: Any
    X: Any
    X_data: Any
    X_indices: Any
    X_indptr: Any
    y: Any
    classes: Any
    sample_weight: Any
    params: Any
    grads: Any
    m: Any
    v: Any
    average: Any
    where: Any
    work: Any
    sums: Any
    squares: Any
    norm: Any
    losses: Any
    precision: str = ""

    @property
    def dtype(self) -> str:
        """The name of T."""
        return str(np.dtype(self.work.dtype).name)

    @property
    def now(self) -> tuple[Any, int]:
        """What every kernel of a step asks first."""
        return self.cursor, self.batch_size


Launch = Callable[[Any], None]
"""A kernel with its arguments, to be launched on a stream."""


def _spread(kernel: Any, n_blocks: int, *arguments: Any) -> Launch:
    return lambda stream: launch_spread(kernel, n_blocks, *arguments, stream=stream)


def _plain(kernel: Any, n_blocks: int, *arguments: Any, threads: int = THREADS) -> Launch:
    return lambda stream: launch(kernel, n_blocks, *arguments, stream=stream, threads=threads)


def _for_samples(n: int) -> int:
    """Return how many blocks go over n samples, a team for each."""
    return n_blocks_for(n, TEAMS)


def _for_units(n: int) -> int:
    """Return how many blocks go over n units, a lane for each."""
    return n_blocks_for(n, LANES)


def gather_rows(run: Run, row: Any) -> Iterator[Launch]:
    source = {Source.X: run.X, Source.Y: run.y, Source.SAMPLE_WEIGHT: run.sample_weight}[row.source]
    arguments = *run.now, run.order, source, row.n_out, int(row.finite), run.work, row.a
    yield _spread(rows.gather_rows, _for_samples(run.batch_size), *arguments)


def gather_csr_rows(run: Run, row: Any) -> Iterator[Launch]:
    samples = run.order, run.X_data, run.X_indices, run.X_indptr
    arguments = *run.now, *samples, row.n_out, int(row.finite), run.work, row.a
    yield _spread(rows.gather_csr_rows, _for_samples(run.batch_size), *arguments)


def gather_classes(run: Run, row: Any) -> Iterator[Launch]:
    arguments = *run.now, run.order, run.classes, row.n_out, run.work, row.a
    yield _spread(rows.gather_classes, _for_samples(run.batch_size), *arguments)


def linear_forward(run: Run, row: Any) -> Iterator[Launch]:
    slices = tiles.n_slices(row.n_in, row.n_out)
    tile = tiles.tile_for(run.batch_size, row.n_out, slices, run.dtype, n_processors(), run.precision)
    sizes = *run.now, slices, run.work, run.params, row.n_in, row.n_out
    layer = row.a_prev, row.W, row.b, row.activation, row.parameter, row.a
    n_blocks = tiles.n_tiles(tile, run.batch_size, row.n_out)
    kernel = products.forward_kernel(tile, run.dtype, copies_later())
    yield _plain(kernel, n_blocks, *sizes, *layer, threads=tile.threads)
    if row.activation == Activation.SOFTMAX:
        yield _spread(rows.softmax, _for_samples(run.batch_size), *run.now, row.n_out, run.work, row.a)


def batch_norm(run: Run, row: Any) -> Iterator[Launch]:
    numbers = row.epsilon, row.momentum, row.activation, row.parameter
    places = row.a_prev, row.W, row.b, *numbers, row.saved, row.rstd, row.mean, row.variance, row.a
    yield _spread(rows.batch_norm, _for_units(row.n_out), *run.now, row.n_out, run.work, run.params, *places)


def normalize(run: Run, row: Any) -> Iterator[Launch]:
    numbers = row.epsilon, row.activation, row.parameter
    places = row.a_prev, row.W, row.b, row.mean, row.variance, *numbers, row.a
    yield _spread(rows.normalize, _for_samples(run.batch_size), *run.now, row.n_out, run.work, run.params, *places)


def activate(run: Run, row: Any) -> Iterator[Launch]:
    function = row.activation, row.parameter, row.at_zero
    places = row.a_prev, *function, row.a, row.saved
    yield _spread(rows.activate, _for_samples(run.batch_size), *run.now, row.n_out, run.work, *places)


def maxout(run: Run, row: Any) -> Iterator[Launch]:
    places = row.n_in, row.n_out, run.work, row.a_prev, row.a
    yield _spread(rows.maxout, _for_samples(run.batch_size), *run.now, *places)


def dropout(run: Run, row: Any) -> Iterator[Launch]:
    function = row.activation, row.parameter, row.at_zero
    places = run.steps, row.n_out, run.work, row.a, *function, row.probability, row.stream, row.saved
    yield _spread(rows.dropout, _for_samples(run.batch_size), *run.now, *places)


def output_delta(run: Run, row: Any) -> Iterator[Launch]:
    function = row.activation, row.parameter, row.at_zero, row.loss, float(np.finfo(run.dtype).eps)
    places = row.n_out, run.work, row.a, row.y, row.weight, *function, row.delta, run.sums
    yield _spread(rows.output_delta, _for_samples(run.batch_size), *run.now, *places)


def activation_delta(run: Run, row: Any) -> Iterator[Launch]:
    function = row.activation, row.parameter, row.at_zero
    places = row.n_out, run.work, row.a_prev, *function, row.delta
    yield _spread(rows.activation_delta, _for_samples(run.batch_size), *run.now, *places)


def maxout_delta(run: Run, row: Any) -> Iterator[Launch]:
    places = row.n_in, row.n_out, run.work, row.a_prev, row.delta, row.delta_prev
    yield _spread(rows.maxout_delta, _for_samples(run.batch_size), *run.now, *places)


def batch_norm_delta(run: Run, row: Any) -> Iterator[Launch]:
    states = run.work, run.params, run.grads, run.m, run.v
    places = row.a_prev, row.rstd, row.W, row.b, row.optimizer, row.delta
    yield _spread(rows.batch_norm_delta, _for_units(row.n_out), *run.now, run.steps, row.n_out, *states, *places)


def backprop_delta(run: Run, row: Any) -> Iterator[Launch]:
    slices = tiles.n_slices(row.n_in, row.n_out)
    tile = tiles.tile_for(run.batch_size, row.n_in, slices, run.dtype, n_processors(), run.precision)
    sizes = *run.now, slices, run.work, run.params, row.n_in, row.n_out
    function = row.activation, row.parameter, row.at_zero
    n_blocks = tiles.n_tiles(tile, run.batch_size, row.n_in)
    places = row.delta, row.W, row.a_prev, *function, row.delta_prev
    kernel = products.backprop_kernel(tile, run.dtype, copies_later())
    yield _plain(kernel, n_blocks, *sizes, *places, threads=tile.threads)


def linear_update(run: Run, row: Any) -> Iterator[Launch]:
    slices = tiles.n_slices(row.n_in, row.n_out)
    tile = tiles.tile_for(row.n_in, row.n_out, slices, run.dtype, n_processors(), run.precision)
    states = run.steps, run.work, run.params, run.grads, run.m, run.v
    rule = NONE if row.op == Op.LINEAR_GRAD else row.optimizer
    layer = row.n_in, row.n_out, row.a_prev, row.delta, rule, row.W, row.b, run.squares, row.squares
    n_blocks = n_update_tiles(run.dtype, run.precision, row) + (0 if row.b == NONE else -(-row.n_out // LANES))
    kernel = products.update_kernel(tile, run.dtype, copies_later())
    yield _plain(kernel, n_blocks, *run.now, slices, *states, *layer, threads=tile.threads)


WITH_SQUARES = Op.LINEAR_GRAD, Op.LINEAR_UPDATE
"""Rows that sum the squares of weights."""


def n_update_tiles(dtype: str, precision: str, row: Any) -> int:
    """Return in how many sums the squares of a layer's weights come."""
    slices = tiles.n_slices(row.n_in, row.n_out)
    tile = tiles.tile_for(row.n_in, row.n_out, slices, dtype, n_processors(), precision)
    return tiles.n_tiles(tile, row.n_in, row.n_out)


def optimizer_step(run: Run, row: Any) -> Iterator[Launch]:
    states = run.grads, run.params, run.m, run.v
    arguments = *run.now, run.steps, row.W, row.n_in, run.where, row.optimizer, *states
    yield _plain(flat.optimizer_step, n_blocks_for(row.n_in), *arguments)


def clip_norm(run: Run, row: Any) -> Iterator[Launch]:
    n_spans = -(-row.n_in // flat.SPAN)
    span = row.W, row.n_in, run.where, run.grads
    yield _plain(flat.square_sums, n_spans, *run.now, *span, run.norm)
    yield _plain(flat.norm_of_sums, 1, n_spans, run.norm, run.norm)
    yield _plain(flat.clip_norm, n_blocks_for(row.n_in), *run.now, run.steps, *span, run.norm)


def average_step(run: Run, row: Any) -> Iterator[Launch]:
    span = row.W, row.n_in, run.where, run.params, run.average
    yield _plain(flat.average_step, n_blocks_for(row.n_in), *run.now, run.steps, *span)


def write_rows(run: Run, a: int, n_outputs: int, out: Any) -> Launch:
    """Return the launch that writes a batch's outputs to where all of them go."""
    return _spread(rows.write_rows, _for_samples(run.batch_size), *run.now, run.work, a, n_outputs, out)


def end_step(run: Run) -> Launch:
    """Return the launch that ends a step."""
    return _plain(flat.end_step, 1, *run.now, run.steps, run.sums, run.squares, run.losses)


LAUNCHES: dict[Op, Callable[[Run, Any], Iterator[Launch]]] = {
    Op.GATHER_ROWS: gather_rows,
    Op.GATHER_CSR_ROWS: gather_csr_rows,
    Op.GATHER_CLASSES: gather_classes,
    Op.LINEAR_FORWARD: linear_forward,
    Op.BATCH_NORM: batch_norm,
    Op.NORMALIZE: normalize,
    Op.ACTIVATE: activate,
    Op.MAXOUT: maxout,
    Op.DROPOUT: dropout,
    Op.OUTPUT_DELTA: output_delta,
    Op.ACTIVATION_DELTA: activation_delta,
    Op.MAXOUT_DELTA: maxout_delta,
    Op.BATCH_NORM_DELTA: batch_norm_delta,
    Op.BACKPROP_DELTA: backprop_delta,
    Op.LINEAR_GRAD: linear_update,
    Op.LINEAR_UPDATE: linear_update,
    Op.OPTIMIZER_STEP: optimizer_step,
    Op.CLIP_NORM: clip_norm,
    Op.AVERAGE_STEP: average_step,
}
