"""The threads of a run in the backend `numba`: what each has for itself, what they share, and how work is divided.

They meet at the barrier of ``barrier.h``, in Numba's words. What waits spins for a while, then sleeps: another process
may need the processor, and the thread that is waited for may be one that stands in line for it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import platform
import sys
from enum import IntEnum
from typing import Any, NamedTuple

from llvmlite import ir
from numba import float64, int32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from .contract import Op
from .numba_jit import inlined, struct
from .numba_vectors import VECTOR_BYTES, as_pointer_to, at, lanes, load, null, store
from .threads import ARRIVED, GENERATION, N_ASLEEP, N_SPINS, N_THREADS, STOPPED


@struct("W", "iiiwwppqpDD")
class Worker(NamedTuple):
    """A thread of a run; all but the first three are pointers."""

    thread: int
    n_threads: int
    n_out: int  # of the widest layer
    barrier: Any
    patience: Any  # numbers named by `Patience`
    own: Any  # this thread's: one sample's sums and list of inputs
    tile: Any  # this thread's: room for a tile
    ahead: Any  # this thread's: numbers named by `Ahead`
    strips: Any  # all threads': the errors of a layer in strips
    losses: Any  # of each panel or row
    squares: Any  # of the weights of each GRAIN inputs


class Share(NamedTuple):
    """Which of some things are a thread's: from ``first`` to ``end``."""

    first: int
    end: int


class Patience(IntEnum):
    """Places of the numbers that say how long a thread spins.

    Where the processors are there it is best to spin for long, for a sleeper takes tens of microseconds to wake; where
    two threads share a processor the one that spins keeps the other from coming. So who had to sleep looks only briefly
    from then on, and tries a long spin ever more rarely, until one is rewarded.
    """

    HAS_SLEPT = 0
    UNTIL_TRIAL = 1
    INTERVAL = 2


MOST_FAR = 3  # sources of rows: samples, targets, weights


class Ahead(IntEnum):
    """Places of the numbers that say which samples come next, and how far they have been fetched.

    With each tile of an update a few bytes of them, of their targets and their weights are asked for: rows in random
    order are not foreseen, and would be waited for.
    """

    ORDER = 0  # an address
    N_ROWS = 1
    N_SOURCES = 2
    SOURCE = 3  # where to go on
    ROW = 4
    BYTE = 5
    BYTES = 6  # how many with each tile: whole cache lines
    STARTS = 7  # addresses, one a source
    ROW_BYTES = STARTS + MOST_FAR  # one a source


BRIEF_SPINS, FIRST_INTERVAL, LAST_INTERVAL = 40, 2, 512
TILE_ROOM = 64  # vectors
NUMBERS_ROOM = 32  # elements for the numbers of `Patience`, and of `Ahead`


def whole(n):
    """Return n rounded up to whole vectors of the most lanes."""
    most_lanes = VECTOR_BYTES // 4
    return -(-n // most_lanes) * most_lanes


def workspace_size(n_in, n_out, n_rows, n_threads):
    """Return how many elements of ``scratch`` threads need for layers up to this size, beside what is packed.

    The sizes are rounded up to the most lanes, and so is the result.
    """
    own = 2 * (n_in + n_out) + TILE_ROOM * VECTOR_BYTES // 4 + 2 * NUMBERS_ROOM
    return n_threads * own + n_out * n_rows + 2 * (n_in + n_rows)


@inlined
def make_worker(thread, n_threads, barrier, n_in, n_out, n_rows, rest):
    """Return a thread's worker, its room cut off what is left of the scratch, and what is left then."""
    L = lanes(rest)
    n_own = 2 * (rounded(n_in, L) + rounded(n_out, L))
    own_size = n_own + TILE_ROOM * L + 2 * NUMBERS_ROOM
    all_own, rest = take(rest, n_threads * own_size)
    strips, rest = take(rest, rounded(n_out, L) * rounded(n_rows, L))
    losses, rest = take(rest, 2 * rounded(n_rows, L))
    squares, rest = take(rest, 2 * rounded(n_in, L))
    own = at(all_own, thread * own_size)
    tile = at(own, n_own)
    numbers = at(tile, TILE_ROOM * L)
    patience, ahead = as_pointer_to(numbers, int32), as_pointer_to(at(numbers, NUMBERS_ROOM), int64)
    for place in range(3):
        store(patience, place, 0)
    store(ahead, Ahead.N_SOURCES, 0)
    losses, squares = as_pointer_to(losses, float64), as_pointer_to(squares, float64)
    return Worker(thread, n_threads, n_out, barrier, patience, own, tile, ahead, strips, losses, squares), rest


@inlined
def worker_of(plan, thread, barrier, n_rows, rest):
    """Return a thread's worker for the walk of a plan, and what is left of the scratch."""
    n_in = n_out = 0
    for r in range(plan.size):
        if is_layer(plan[r].op):
            n_in, n_out = max(n_in, plan[r].n_in), max(n_out, plan[r].n_out)
    return make_worker(thread, int64(load(barrier, N_THREADS)), barrier, n_in, n_out, n_rows, rest)


@inlined
def alone(batch, n_in, n_out, rest):
    """Return the only worker of an operation by hand, and what is left of the scratch."""
    return make_worker(0, 1, null(as_pointer_to(rest, int32)), n_in, n_out, batch.n, rest)


@inlined
def meet(worker):
    """Wait until all threads have come here."""
    if worker.n_threads > 1:
        barrier_wait(worker.barrier, worker.patience)


@inlined
def share(worker, n, grain):
    """Return which of n things are this thread's: whole grains, as equally many as can be."""
    if worker.n_threads == 1:
        return Share(0, n)
    n_grains = (n + grain - 1) // grain
    first = n_grains * worker.thread // worker.n_threads * grain
    return Share(first, min(n, n_grains * (worker.thread + 1) // worker.n_threads * grain))


@inlined
def largest(worker, n, grain):
    """Return how many of n things the most burdened thread has."""
    n_grains = (n + grain - 1) // grain
    return min(n, (n_grains + worker.n_threads - 1) // worker.n_threads * grain)


@inlined
def sum_of(parts, n):
    """Add up what the threads found, in an order that does not depend on their number."""
    total = 0.0
    for i in range(n):
        total += load(parts, i)
    return total


@inlined
def is_norm(op):
    """Tell whether a row normalises a layer: gamma is its one row of weights, beta its bias."""
    return op == Op.BATCH_NORM or op == Op.NORMALIZE


@inlined
def is_layer(op):
    """Tell whether a row is the forward pass of a layer with parameters of its own."""
    return op == Op.LINEAR_FORWARD or is_norm(op)


# -------------------------------------------------------------------------------------------- the scratch


@inlined
def rounded(n, L):
    """Return n rounded up to whole vectors of L lanes."""
    return (n + L - 1) // L * L


@inlined
def take(rest, n):
    """Cut n elements off what is left of the scratch, in whole vectors; return where they begin, and what is left."""
    return rest, at(rest, rounded(n, lanes(rest)))


# -------------------------------------------------------------------------------------------- the barrier


@inlined
def barrier_wait(barrier, patience):
    """Return when all threads have come here, or one gave up. What each wrote before, all read after."""
    generation = atomic_load(at(barrier, GENERATION))
    n_spins, is_trial = spins(load(barrier, N_SPINS), patience)
    if atomic_add(at(barrier, ARRIVED), 1) == load(barrier, N_THREADS):
        atomic_store(at(barrier, ARRIVED), 0)
        atomic_store(at(barrier, GENERATION), generation + 1)
        if atomic_load(at(barrier, N_ASLEEP)):  # read after the generation was set, which a sleeper reads after this
            wake_all(at(barrier, GENERATION))
        return
    for _ in range(n_spins):
        if atomic_load(at(barrier, GENERATION)) != generation or atomic_load(at(barrier, STOPPED)):
            if is_trial:
                store(patience, Patience.HAS_SLEPT, 0)
            return
        pause()
    lose_patience(patience, is_trial)
    atomic_add(at(barrier, N_ASLEEP), 1)
    while atomic_load(at(barrier, GENERATION)) == generation and not atomic_load(at(barrier, STOPPED)):
        sleep_while(at(barrier, GENERATION), generation)
    atomic_add(at(barrier, N_ASLEEP), -1)


@inlined
def spins(most, patience):
    """Return how often to look before sleeping, and whether that is a trial."""
    if not load(patience, Patience.HAS_SLEPT):
        return most, False
    until_trial = load(patience, Patience.UNTIL_TRIAL)
    store(patience, Patience.UNTIL_TRIAL, until_trial - 1)
    if until_trial <= 0:
        return most, True
    return min(most, BRIEF_SPINS), False


@inlined
def lose_patience(patience, is_trial):
    """Note that spinning was in vain, and when to try again."""
    interval = load(patience, Patience.INTERVAL)
    if not load(patience, Patience.HAS_SLEPT):
        interval = FIRST_INTERVAL
    elif is_trial and interval < LAST_INTERVAL:
        interval = 2 * interval
    store(patience, Patience.INTERVAL, interval)
    if is_trial or not load(patience, Patience.HAS_SLEPT):
        store(patience, Patience.UNTIL_TRIAL, interval)
    store(patience, Patience.HAS_SLEPT, 1)


@intrinsic
def atomic_add(typingctx: Any, p: Any, n: Any) -> Any:
    """Add n to what stands at p, and return the sum."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(builder.atomic_rmw("add", *args, "seq_cst"), args[1])

    return p.dtype(p, p.dtype), codegen


@intrinsic
def atomic_load(typingctx: Any, p: Any) -> Any:
    """Return what stands at p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(args[0], "seq_cst", p.dtype.bitwidth // 8)

    return p.dtype(p), codegen


@intrinsic
def atomic_store(typingctx: Any, p: Any, value: Any) -> Any:
    """Write ``value`` to p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], args[0], "seq_cst", p.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(p, p.dtype), codegen


_MACHINE = platform.machine().lower()
_PAUSES: dict[str, tuple[str, list[int]]] = {
    **dict.fromkeys(("x86_64", "amd64"), ("llvm.x86.sse2.pause", [])),
    **dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.hint", [1])),
}
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(_MACHINE) if sys.platform == "linux" else None
_WAIT, _WAKE, _MOST = 128, 129, 2**31 - 1


def _call(builder: Any, name: str, result: Any, *args: Any, var_arg: bool = False) -> None:
    """Call a C function, or an LLVM intrinsic, by its name."""
    kind = ir.FunctionType(result, [arg.type for arg in args[: 1 if var_arg else None]], var_arg=var_arg)
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the processor that this thread spins."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _MACHINE in _PAUSES:
            name, numbers = _PAUSES[_MACHINE]
            _call(builder, name, ir.VoidType(), *(ir.IntType(32)(number) for number in numbers))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def sleep_while(typingctx: Any, p: Any, value: Any) -> Any:
    """Sleep for a moment, or until woken, if what stands at p is ``value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        long = ir.IntType(64)
        if _FUTEX is not None:
            kind = ir.ArrayType(long, 2)
            at_most = cgutils.alloca_once(builder, kind)
            builder.store(ir.Constant(kind, [0, 10_000_000]), at_most)  # seconds and nanoseconds
            numbers = long(_WAIT), builder.sext(args[1], long), at_most, long(0), long(0)
            _call(builder, "syscall", long, long(_FUTEX), args[0], *numbers, var_arg=True)
        elif sys.platform == "win32":
            _call(builder, "Sleep", ir.VoidType(), ir.IntType(32)(0))
        else:
            _call(builder, "usleep", ir.IntType(32), ir.IntType(32)(50))
        return context.get_dummy_value()

    return types.void(p, p.dtype), codegen


@intrinsic
def wake_all(typingctx: Any, p: Any) -> Any:
    """Wake all who sleep at p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        long = ir.IntType(64)
        if _FUTEX is not None:
            numbers = long(_WAKE), long(_MOST), long(0), long(0), long(0)
            _call(builder, "syscall", long, long(_FUTEX), args[0], *numbers, var_arg=True)
        return context.get_dummy_value()

    return types.void(p), codegen
