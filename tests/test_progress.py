"""Progress: shown on a terminal and in a notebook, and nothing elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import progress

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")

X, Y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Terminal:
    """A pseudo-terminal that keeps what was written to it."""

    def __init__(self) -> None:
        self.written = b""
        self._ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            self.written += part

    def close(self) -> str:
        """Return the text that was shown, without control sequences."""
        self.stream.close()
        self._reader.join(10)
        os.close(self._ours)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written.decode())


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A context in which the streams named are a terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    @contextmanager
    def terminal(*names: str) -> Iterator[list[str]]:
        made, shown = Terminal(), []
        try:
            with monkeypatch.context() as patch:
                for name in names:
                    patch.setattr(sys, name, made.stream)
                yield shown
        finally:
            shown.append(made.close())

    return terminal


def fit_classifier(**parameters: Any) -> fastbp.MLPClassifier:
    settings = {"hidden_layer_sizes": (4,), "max_iter": 7, "random_state": 0, "progress": True, **parameters}
    return fastbp.MLPClassifier(**settings).fit(X, Y)


def fit_trainer() -> None:
    net = fastbp.Network((3, 4, 2), random_state=0)
    fastbp.Trainer(net, random_state=0).fit(X, Y, epochs=7, progress=True)


@pytest.mark.parametrize("fit", [fit_classifier, fit_trainer])
def test_a_terminal_shows_epochs_loss_and_time(fit: Callable[[], Any], on_terminal: Callable[..., Any]) -> None:
    with on_terminal("stderr") as shown:
        fit()
    assert "epoch 0/7" in shown[0]
    last = shown[0].rstrip().splitlines()[-1].split("\r")[-1]
    assert re.search(r"epoch 7/7 .*loss \d\.\d+ in \d+\.\d s$", last)


def test_time_left_is_shown_while_training(on_terminal: Callable[..., Any]) -> None:
    with on_terminal("stderr") as shown, progress.EpochProgress(True, 3) as bar:
        for loss in (3.0, 2.0):
            bar.advance(loss)
        assert isinstance(bar._display, progress._TerminalBar)
        bar._display._bar.refresh()
    assert re.search(r"epoch 2/3 .*loss 2 \S+ left", shown[0])


def test_nothing_is_shown_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    fit_classifier()
    fit_trainer()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_shown_unless_asked_for(on_terminal: Callable[..., Any]) -> None:
    with on_terminal("stdout", "stderr") as shown:
        fit_classifier(progress=False)
    assert shown == [""]


def test_a_missing_stderr_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    fit_trainer()


def test_verbose_lines_reach_a_stdout_that_is_no_terminal(
    on_terminal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar draws above itself what is printed on its terminal; a redirected stdout is none of its business."""
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with on_terminal("stderr") as shown:
        model = fit_classifier(verbose=True)
    lines = [f"Iteration {i}, loss = {loss:.8f}" for i, loss in enumerate(model.loss_curve_, 1)]
    assert stdout.getvalue().splitlines() == lines
    assert "Iteration" not in shown[0]


def test_verbose_lines_stand_above_the_bar_on_a_terminal(on_terminal: Callable[..., Any]) -> None:
    with on_terminal("stdout", "stderr") as shown:
        fit_classifier(verbose=True)
    for i in range(1, 8):
        assert re.search(rf"(^|\r)Iteration {i}, loss = \d\.\d{{8}}\r?$", shown[0], re.MULTILINE)


def test_the_terminal_is_put_right_after_an_error(on_terminal: Callable[..., Any]) -> None:
    class Stop(fastbp.Callback):
        def on_epoch_end(self, state: fastbp.TrainingState) -> None:
            raise RuntimeError("stop")

    with on_terminal("stderr"):
        stream, threads = sys.stderr, set(threading.enumerate())
        net = fastbp.Network((3, 4, 2), random_state=0)
        with pytest.raises(RuntimeError, match="stop"):
            fastbp.Trainer(net).fit(X, Y, epochs=7, progress=True, callbacks=[Stop()])
        assert sys.stderr is stream
        for thread in set(threading.enumerate()) - threads:  # what refreshes the bar ends by itself
            thread.join(5)
            assert not thread.is_alive()


def test_a_notebook_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for IPython: `display` gives a handle whose `update` replaces the line."""
    lines: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            lines.append(data["text/plain"])

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        lines.append(data["text/plain"])
        return Handle()

    class ZMQInteractiveShell:
        """The name by which a notebook's shell is known."""

    class Shell(ZMQInteractiveShell):
        """A notebook service's own, as Colab's."""

    package, displays = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython = Shell  # type: ignore[attr-defined]
    displays.display = display  # type: ignore[attr-defined]
    for name, module in {"IPython": package, "IPython.display": displays, "ipykernel": package}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DISPLAYS", 0)
    fit_trainer()
    assert lines[0] == "epoch 0/7"
    assert all(re.fullmatch(rf"epoch {i}/7  loss \d\.\d+  \d\.\d s left", lines[i]) for i in range(1, 8))
    assert re.fullmatch(r"epoch 7/7  loss \d\.\d+  in \d\.\d s", lines[8])
    assert len(lines) == 9


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "0:01:01"), (3700, "1:01:40")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text
