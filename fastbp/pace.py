"""How fast a run goes: how many steps fit between two cuts, and in how many threads they are fastest."""

from __future__ import annotations

from .plan import Plan

SECONDS_BETWEEN_CUTS = 0.1
"""Python is entered again after this time or after one step, whichever is longer: for Ctrl-C, callbacks, progress."""

FLOPS_BEFORE_FIRST_CUT = 1e9
STEPS_BEFORE_FIRST_CUT = 1000
"""Work to begin with, at most, before it is known how long a step takes: some milliseconds with a compiled backend."""

SECONDS_OF_A_TRIAL = 0.005
SECONDS_TO_NEXT_TRIAL, SECONDS_BETWEEN_TRIALS = 0.1, 1.6
"""Now and then the number of threads that was slower is tried again: other processes come and go. Soon after it became
the slower one, which may have been chance, then ever more rarely."""


class Pace:
    """How many steps to do next, and in how many threads, from how long the last ones took.

    The number of threads changes no bit of a result, so each piece of a run may have its own. Where another process
    takes a processor away, all threads wait for the one that lacks it: one thread is faster then.

    Parameters
    ----------
    plan : Plan
    n_threads : int
        The most threads to take.
    """

    def __init__(self, plan: Plan, n_threads: int = 1) -> None:
        self.plan, self.n_threads = plan, n_threads
        self.choices = (n_threads, 1) if n_threads > 1 else (1,)
        first = max(1, min(STEPS_BEFORE_FIRST_CUT, int(FLOPS_BEFORE_FIRST_CUT / plan.flops)))
        self.n_steps = dict.fromkeys(self.choices, first)
        self.n_tries = dict.fromkeys(self.choices, 0)
        self.seconds = dict.fromkeys(self.choices, 0.0)  # of a step
        self.since_trial, self.to_next_trial = 0.0, SECONDS_TO_NEXT_TRIAL

    def is_for(self, plan: Plan, n_threads: int) -> bool:
        """Tell whether what was learned holds for such a run."""
        return self.plan is plan and self.n_threads == n_threads

    def next(self) -> tuple[int, int]:
        """Return how many steps to do, and in how many threads: each number twice, then the faster one."""
        rarest = min(self.choices, key=self.n_tries.__getitem__)
        if self.n_tries[rarest] < 2:
            return self.n_steps[rarest], rarest
        others = [n for n in self.choices if n != self._fastest()]
        if not others or self.since_trial < self.to_next_trial:
            return self.n_steps[self._fastest()], self._fastest()
        return max(1, min(self.n_steps[others[0]], int(SECONDS_OF_A_TRIAL / self.seconds[others[0]]))), others[0]

    def observe(self, n_steps: int, n_threads: int, seconds: float) -> None:
        """Take note that ``n_steps`` in so many threads took ``seconds``; grow at most eightfold at a time."""
        per_step, expected = max(seconds / n_steps, 1e-9), self.seconds[n_threads]
        fastest = self._fastest()
        weight = min(1.0, n_steps * max(per_step, expected) / SECONDS_OF_A_TRIAL)  # short pieces tell little
        if n_threads == fastest:  # of the other what was known is old
            weight *= 0.5
        if self.n_tries[n_threads] < 2:  # the first one was cold
            weight = 1.0
        self.seconds[n_threads] = expected + weight * (per_step - expected)
        self.since_trial = self.since_trial + seconds if n_threads == fastest else 0.0
        if fastest != self._fastest():
            self.to_next_trial = SECONDS_TO_NEXT_TRIAL
        elif n_threads != fastest:
            self.to_next_trial = min(2 * self.to_next_trial, SECONDS_BETWEEN_TRIALS)
        self.n_tries[n_threads] += 1
        fitting = int(SECONDS_BETWEEN_CUTS / self.seconds[n_threads])
        self.n_steps[n_threads] = max(1, min(fitting, 8 * self.n_steps[n_threads]))

    def _fastest(self) -> int:
        return min(self.choices, key=self.seconds.__getitem__)
