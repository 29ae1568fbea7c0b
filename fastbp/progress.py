"""Progress on a terminal or in a notebook: epochs, loss, time left."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from .callbacks import Callback, TrainingState

SECONDS_BETWEEN_DISPLAYS = 0.1
"""A notebook gets a message for every display: no more than so often."""


class _Display(Protocol):
    """Something that shows how far a training is."""

    def start(self) -> None: ...

    def show(self, n_done: int, loss: float) -> None: ...

    def stop(self) -> None: ...


class EpochProgress:
    """Progress over epochs; shows nothing where output goes neither to a terminal nor to a notebook.

    Parameters
    ----------
    enabled : bool
    n_epochs : int
    """

    def __init__(self, enabled: bool, n_epochs: int) -> None:
        self.n_done = 0
        self._display: _Display | None = None
        if enabled and _in_notebook():
            self._display = _NotebookLine(n_epochs)
        elif enabled and sys.stderr is not None and sys.stderr.isatty():
            self._display = _TerminalBar(n_epochs)

    def __enter__(self) -> Self:
        if self._display is not None:
            self._display.start()
        return self

    def advance(self, loss: float) -> None:
        """Show that an epoch ended with this loss."""
        self.n_done += 1
        if self._display is not None:
            self._display.show(self.n_done, loss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()


class ProgressBar(Callback):
    """`EpochProgress` for a trainer."""

    def on_train_begin(self, state: TrainingState) -> None:
        self._progress = EpochProgress(True, state.n_epochs).__enter__()

    def on_epoch_end(self, state: TrainingState) -> None:
        self._progress.advance(state.history.loss[-1])

    def on_train_end(self, state: TrainingState) -> None:
        self._progress.__exit__(None, None, None)


class _TerminalBar:
    """A bar on stderr, drawn by rich."""

    def __init__(self, n_epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        class Time(TimeRemainingColumn):
            """The time left; at the end, the time that it took."""

            def render(self, task: Any) -> Any:
                if task.fields["ended"]:
                    return f"in {_clock(task.elapsed or 0.0)}"
                return super().render(task) + " left"

        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[loss]}"), Time())
        # Where stdout is a file or a pipe, what is printed there must not be drawn above the bar instead.
        redirect_stdout = sys.stdout is not None and sys.stdout.isatty()
        self._bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=redirect_stdout)
        self._task = self._bar.add_task("training", total=n_epochs, loss="", ended=False)

    def start(self) -> None:
        self._bar.start()

    def show(self, n_done: int, loss: float) -> None:
        self._bar.update(self._task, completed=n_done, loss=_loss_text(loss))

    def stop(self) -> None:
        self._bar.update(self._task, ended=True)
        self._bar.stop()


class _NotebookLine:
    """A line in a cell's output; rich would need ipywidgets for it."""

    def __init__(self, n_epochs: int) -> None:
        self._n_epochs = n_epochs
        self._text = f"epoch 0/{n_epochs}"

    def start(self) -> None:
        from IPython.display import display

        self._begin = self._last = time.perf_counter()
        self._handle = display(_as_text(self._text), raw=True, display_id=True)

    def show(self, n_done: int, loss: float) -> None:
        now = time.perf_counter()
        left = (now - self._begin) / n_done * (self._n_epochs - n_done)
        self._text = f"epoch {n_done}/{self._n_epochs}  {_loss_text(loss)}"
        if now - self._last >= SECONDS_BETWEEN_DISPLAYS:
            self._last = now
            self._handle.update(_as_text(f"{self._text}  {_clock(left)} left"), raw=True)

    def stop(self) -> None:
        took = _clock(time.perf_counter() - self._begin)
        self._handle.update(_as_text(f"{self._text}  in {took}"), raw=True)


def _as_text(line: str) -> dict[str, str]:
    return {"text/plain": line}


def _loss_text(loss: float) -> str:
    return f"loss {loss:.6g}"


def _clock(seconds: float) -> str:
    """Return a duration: tenths of a second below a minute, h:mm:ss above."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _in_notebook() -> bool:
    """Tell whether this runs under a Jupyter kernel."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return any(cls.__name__ == "ZMQInteractiveShell" for cls in type(get_ipython()).__mro__)
