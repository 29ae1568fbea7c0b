"""Threads of the compiled backends: Python threads that enter one kernel without the GIL, and meet at a barrier.

No runtime of another library takes part: nothing clashes with theirs, and nothing stays behind that a forked child
would miss.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_THREADS, N_SPINS, ARRIVED, GENERATION, N_ASLEEP, STOPPED = range(0, 96, 16)
"""Places in a barrier, an array of int32: a cache line each."""

SPINS = 4000
"""How often a thread looks whether the others have come before it sleeps: for some 100 microseconds."""


MOST_THREADS = 256
"""More than these, and than there are processors, would only wait for each other."""


def capped(n_threads: int) -> int:
    """Return how many of ``n_threads`` threads are worth starting."""
    return min(n_threads, max(MOST_THREADS, usable_processors()))


def together(work: Callable[[int, NDArray[np.int32]], Any], n_threads: int) -> None:
    """Call ``work(thread, barrier)`` in ``n_threads`` threads at once, thread 0 being this one.

    Parameters
    ----------
    work : callable
        Must end soon where ``barrier[STOPPED]`` is set.
    n_threads : int
        Where the system refuses to start as many, there are fewer.
    """
    barrier = make_barrier(n_threads)
    if n_threads == 1:
        work(0, barrier)
        return
    may_begin, home = threading.Event(), _processor_teller()()
    errors: list[BaseException] = []

    def begin(thread: int) -> None:
        try:
            may_begin.wait()
            _settle(thread, n_threads, home)
            if not barrier[STOPPED]:
                work(thread, barrier)
        except BaseException as error:
            barrier[STOPPED] = 1  # the others must not wait for this thread
            errors.append(error)

    others: list[threading.Thread] = []
    try:
        for thread in range(1, n_threads):
            other = threading.Thread(target=begin, args=(thread,), name=f"fastbp-{thread}", daemon=True)
            try:
                other.start()
            except RuntimeError:  # the system has no more
                break
            others.append(other)
        barrier[N_THREADS] = 1 + len(others)
        may_begin.set()
        work(0, barrier)
    except BaseException:  # Ctrl-C, before the kernel was entered: the others must not wait for this thread
        barrier[STOPPED] = 1
        may_begin.set()
        raise
    finally:
        _join(others)
    if errors:
        raise errors[0]


def make_barrier(n_threads: int) -> NDArray[np.int32]:
    """Return a barrier where ``n_threads`` threads will meet. Where processors are too few, they do not spin."""
    barrier = np.zeros(96 + 16, np.int32)
    if n_threads > 1:
        barrier = barrier[-(barrier.ctypes.data // 4) % 16 :]
        barrier[N_SPINS] = SPINS if n_threads <= usable_processors() else 0
    barrier[N_THREADS] = n_threads
    return barrier


def usable_processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _processor_teller() -> Callable[[], int]:
    """Return what tells on which processor a thread runs, -1 where the system does not say."""
    try:
        teller: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return lambda: -1
    return teller


def _settle(thread: int, n_threads: int, home: int) -> None:
    """Begin on a processor of one's own, and stay off ``home``, the caller's, if there are enough.

    Threads that meet on one processor wait for each other there, and it may take a tenth of a second to part them. This
    comes last before the work: who is woken is often put where the waker runs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        usable = sorted(os.sched_getaffinity(0))
        if home in usable:
            os.sched_setaffinity(0, {usable[(usable.index(home) + thread) % len(usable)]})
            os.sched_setaffinity(0, set(usable) - {home} if n_threads <= len(usable) else usable)


def _join(threads: list[threading.Thread]) -> None:
    """Wait for the threads to end, whatever comes: they work on the caller's arrays."""
    interruption: BaseException | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # Ctrl-C, or what another signal's handler raises
                interruption = error
    if interruption is not None:
        raise interruption
