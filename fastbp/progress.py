"""Progress on a terminal or in a notebook: epochs, loss, time left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from .callbacks import Callback, TrainingState


class EpochProgress:
    """A progress bar over epochs; shows nothing where output goes neither to a terminal nor to a notebook.

    Parameters
    ----------
    enabled : bool
    n_epochs : int
    """

    def __init__(self, enabled: bool, n_epochs: int) -> None:
        self.n_epochs = n_epochs
        self._bar: Any = None
        if enabled and (sys.stderr.isatty() or _in_notebook()):
            self._bar = _make_bar()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.n_epochs, loss="")
        return self

    def advance(self, loss: float) -> None:
        """Show that an epoch ended with this loss."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, loss=f"loss {loss:.6g}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class ProgressBar(Callback):
    """`EpochProgress` for a trainer."""

    def on_train_begin(self, state: TrainingState) -> None:
        self._progress = EpochProgress(True, state.n_epochs).__enter__()

    def on_epoch_end(self, state: TrainingState) -> None:
        self._progress.advance(state.history.loss[-1])

    def on_train_end(self, state: TrainingState) -> None:
        self._progress.__exit__(None, None, None)


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=not _in_notebook()))


def _in_notebook() -> bool:
    """Tell whether this runs under a Jupyter kernel."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
