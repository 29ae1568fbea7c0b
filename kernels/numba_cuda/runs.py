"""Runs on the device: their arrays, which outlive a call, and the steps of a plan one after the other.

Steps come in one of three ways. A small network's are done by one kernel, of one block, that walks the plan (`walk`).
Of others the kernels of `STEPS_A_GRAPH` steps are captured once as a CUDA graph, which is launched again and again; the
first steps are launched kernel by kernel, which compiles them. In none of these does Python come between steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import MOMENTS, NONE, Buffers, Op
from ..foreign import is_on_device
from . import flat
from .chunks import Chunks
from .functions import FIELDS
from .layers import LAUNCHES, WITH_SQUARES, Launch, Run, end_step, n_update_tiles, write_rows
from .memory import Array, address_of, empty, has_room, launch, launch_spread, n_blocks_for, to_device, zeros
from .placing import Placement, placed_work
from .toolkit import Graph, cuda, most_shared_bytes, settings, shared_limit_raised
from .walk import WALKED, tables, walk_kernel

UPDATES = (Op.LINEAR_UPDATE, Op.OPTIMIZER_STEP, Op.BATCH_NORM_DELTA)
DATA = ("X", "X_data", "X_indices", "X_indptr", "y", "classes", "sample_weight")

STEPS_A_GRAPH = 8
"""Steps beyond the last one do nothing: their blocks see that no samples are left."""

MOST_WALKED_FLOPS = 4e6
"""Work of a step up to which one block is faster than a dozen kernels, each of which takes a microsecond or two to
begin: a block does some 0.2 TFLOP/s."""

ROOM_BYTES = 4096
"""Shared memory of a walk beside the activations."""


class Session:
    """What a run has on the device, from one call to the next.

    Parameters
    ----------
    plan : ndarray of dtype `PLAN_ROW`
    buffers : Buffers
    """

    def __init__(self, plan: NDArray[np.void], buffers: Buffers) -> None:
        self.plan, self.dtype, self.precision = plan, buffers.params.dtype, settings.precision
        self.placement = placement = Placement(plan, buffers.params.size)
        ops = [row.op for row in placement.rows]
        rules = {row.optimizer for row in placement.rows if row.op in UPDATES}
        gradient = NONE in rules or bool({Op.LINEAR_GRAD, Op.OPTIMIZER_STEP, Op.CLIP_NORM} & {*ops})
        m, v = (any(name in MOMENTS[rule] for rule in rules - {NONE}) for name in ("m", "v"))
        self.used = {"params": True, "grads": gradient, "m": m, "v": v, "average": Op.AVERAGE_STEP in ops}
        n_squares = 0
        for row in placement.rows:
            row.squares = n_squares
            if row.op in WITH_SQUARES:
                n_squares += n_update_tiles(self.dtype.name, self.precision, row)
        self.states = {name: zeros(placement.size if used else 1, self.dtype) for name, used in self.used.items()}
        self.where = to_device(placement.where)
        self.squares = zeros(n_squares, np.float64)
        self.norm = empty(1 + buffers.params.size // flat.SPAN, np.float64)
        self.cursor, self.losses = zeros(3, np.int64), zeros(3, np.float64)
        self.arrays: dict[str, Any] = {}
        self.borrowed: set[str] = set()  # arrays of the caller's, never written to
        self.graph: Graph | None = None
        self.chunks: Chunks | None = None
        self.batch_size = 0

    def take_over(self, last: Session) -> None:
        """Go on with the parameters and moments of another session on the same network."""
        if self.dtype == last.dtype and np.array_equal(self.placement.where, last.placement.where):
            self.states |= {name: last.states[name] for name, used in self.used.items() if used and last.used[name]}

    def fits(self, plan: NDArray[np.void], buffers: Buffers) -> bool:
        """Tell whether this session was made for such a run."""
        same_plan = self.plan is plan or np.array_equal(self.plan, plan)
        kept = self.placement.where.size, self.dtype, self.precision
        return same_plan and kept == (buffers.params.size, buffers.params.dtype, settings.precision)

    def _prepare(self, batch_size: int) -> None:
        """Make room for mini-batches of so many samples."""
        if batch_size == self.batch_size:
            return
        self.batch_size, self.graph = 0, None  # until there is room: a run that finds none may be tried again
        self.rows, self.work_size = placed_work(self.placement.rows, batch_size)
        self.walks = not self.precision and walks(self.rows, self.work_size, self.dtype, batch_size)
        if self.walks:
            whole, real = tables(self.rows)
            self.tables = cuda.to_device(whole), cuda.to_device(real)
        self.work = zeros(1 if self.walks else self.work_size, self.dtype)
        self.sums, self.squares = zeros(batch_size, np.float64), zeros(self.squares.size, np.float64)
        self.batch_size = batch_size

    def load(self, buffers: Buffers) -> None:
        """Copy a run's samples to the device; dense ones for which it has no room come in chunks, in their turn."""
        self.chunks = None
        here, X = self.arrays.get("X"), buffers.X
        has_place = here is not None and "X" not in self.borrowed and here.size >= X.size
        if not is_on_device(X) and X.size and not has_place and not has_room(X.nbytes):
            for name in DATA:
                self.arrays.pop(name, None)
            self.chunks = Chunks(buffers)
            return
        for name in DATA:
            self._keep(name, getattr(buffers, name))

    def _keep(self, name: str, array: Any) -> None:
        """Copy an array to where the last one of its name is, if that is large enough: a graph knows that place."""
        here = self.arrays.get(name)
        if is_on_device(array):
            there = to_device(array)
            self.borrowed.add(name)
            if here is None or address_of(here) != address_of(there):
                self.arrays[name], self.graph = there, None
        elif here is None or name in self.borrowed or here.dtype != array.dtype or here.size < array.size:
            self.arrays[name], self.graph = to_device(array), None
            self.borrowed.discard(name)
        elif array.size:
            here[: array.size].copy_to_device(np.ascontiguousarray(array).reshape(-1))

    def carry(self, buffers: Buffers, names: Sequence[str], *, back: bool) -> None:
        """Copy parameters, and what goes with them, to their places on the device, or back from there."""
        for name in names:
            natural = getattr(buffers, name)
            if self.used[name] and natural.size:
                here = to_device(natural)  # on the way back with what belongs to no layer
                kernel = flat.brought_together if back else flat.spread_out
                launch(kernel, n_blocks_for(natural.size), here, self.states[name], self.where)
                if back:
                    here.copy_to_host(natural)

    def run(self, batch_size: int, order: Array, steps: NDArray[np.void] | None = None) -> Run:
        """Return what the kernels of a run of steps work on."""
        self._prepare(batch_size)
        table = np.zeros((1, len(FIELDS)), np.float64) if steps is None else steps
        self._keep("order", order)
        self._keep("steps", table.view(np.float64))
        samples = {name: self.arrays[name] for name in (*DATA, "order")}
        return Run(
            cursor=self.cursor,
            batch_size=self.batch_size,
            steps=self.arrays["steps"].reshape(-1, len(FIELDS)),
            **samples,
            **self.states,
            where=self.where,
            work=self.work,
            sums=self.sums,
            squares=self.squares,
            norm=self.norm,
            losses=self.losses,
            precision=self.precision,
        )

    def program(self, run: Run) -> list[Launch]:
        """Return the launches of the plan's rows."""
        return [one for row in self.rows for one in LAUNCHES[row.op](run, row)]

    def train(self, steps: NDArray[np.void], order: Array, batch_size: int, losses: Array) -> None:
        """Do steps; add what they found to ``losses``, of those that were done where something interrupts."""
        if self.chunks is not None:
            self.arrays.update(self.chunks.nothing)
        run = self.run(batch_size, order, steps)
        launch(flat.start, 1, run.cursor, len(order), run.losses)
        try:
            if self.chunks is not None:
                self._train_in_chunks(run, len(steps), order, self.chunks)
            elif self.walks:
                self._walk(run, len(steps))
            else:
                self._launch(run, len(steps))
        finally:
            losses += run.losses.copy_to_host()

    def _train_in_chunks(self, run: Run, n_steps: int, order: Array, chunks: Chunks) -> None:
        """Do steps chunk by chunk: while one is learned from, the next one is gathered and on its way."""
        together = chunks.steps_at_once(run.batch_size)
        positions = to_device(np.arange(together * run.batch_size))
        for first in range(0, n_steps, together):
            samples = order[first * run.batch_size : (first + together) * run.batch_size]
            arrays = chunks.bring(samples)
            here = run._replace(**arrays, order=positions, steps=run.steps[first : first + together])
            count = min(together, n_steps - first)
            launch(flat.go_on, 1, run.cursor, len(samples), stream=chunks.stream)
            if self.walks:
                self._walk(here, count, chunks.stream)
            else:
                self._launch_each([*self.program(here), end_step(here)], count, chunks.stream)
            chunks.is_used()
        chunks.stream.synchronize()

    def _walk(self, run: Run, n_steps: int, stream: Any = 0) -> None:
        """Let one kernel do all steps."""
        samples = run.order, run.steps, *self.tables, run.X, run.y, run.classes, run.sample_weight
        results = self.work_size, run.sums, run.squares, run.losses, float(np.finfo(self.dtype).eps)
        states = run.params, run.grads, run.m, run.v
        arguments = n_steps, run.cursor, run.batch_size, *samples, *states, *results
        n_bytes = self.work_size * self.dtype.itemsize
        shared = shared_limit_raised(walk_kernel(), arguments, n_bytes)
        launch_spread(walk_kernel(), 1, *arguments, stream=stream, shared=shared)

    def _launch(self, run: Run, n_steps: int) -> None:
        """Launch the steps' kernels, one by one at first, and then many at a time."""
        launches = [*self.program(run), end_step(run)]
        if self.graph is None:
            for one in launches:
                one(0)
            n_steps -= 1
            if Graph.is_available and n_steps >= STEPS_A_GRAPH:
                self.graph = Graph(launches * STEPS_A_GRAPH)
        if self.graph is not None:
            for _ in range(0, n_steps, STEPS_A_GRAPH):
                self.graph.launch()
        else:
            self._launch_each(launches, n_steps, 0)

    def _launch_each(self, launches: list[Launch], n_steps: int, stream: Any) -> None:
        for _ in range(n_steps):
            for one in launches:
                one(stream)

    def predict(self, order: Array, batch_size: int, out: Array) -> None:
        """Write the outputs for some samples, each behind the other."""
        run, found = self.run(batch_size, order), empty(out.size, out.dtype)
        launches = [*self.program(run), write_rows(run, self.rows[-1].a, out.shape[1], found)]
        launch(flat.start, 1, run.cursor, len(order), run.losses)
        for _ in range(0, len(order), self.batch_size):
            for one in launches:
                one(0)
            launch(flat.next_batch, 1, run.cursor)
        if out.size:
            found.copy_to_host(out.reshape(-1))


def walks(rows: list[Any], work_size: int, dtype: Any, batch_size: int) -> bool:
    """Tell whether one block does a run's steps: they are short, and all activations fit into its shared memory."""
    products = [row for row in rows if row.op in (Op.LINEAR_FORWARD, Op.BACKPROP_DELTA, Op.LINEAR_UPDATE)]
    flops = 2 * batch_size * sum(row.n_in * row.n_out for row in products)
    has_all = any(row.op == Op.OUTPUT_DELTA for row in rows) and all(row.op in WALKED for row in rows)
    fits = work_size * dtype.itemsize + ROOM_BYTES <= most_shared_bytes()
    return has_all and dtype == np.float32 and flops <= MOST_WALKED_FLOPS and fits


_SESSIONS: dict[int, Session] = {}


def session_of(plan: NDArray[np.void], buffers: Buffers) -> Session:
    """Return the session that goes with a run's ``scratch``, which stands for the memory that it has on the device."""
    key = id(buffers.scratch)
    if key not in _SESSIONS:
        weakref.finalize(buffers.scratch, _SESSIONS.pop, key, None)
    last = _SESSIONS.get(key)
    if last is None or not last.fits(plan, buffers):
        _SESSIONS[key] = Session(plan, buffers)
        if last is not None:
            _SESSIONS[key].take_over(last)
    return _SESSIONS[key]
