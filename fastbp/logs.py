"""Where the logger ``fastbp`` writes when nobody has set logging up."""

from __future__ import annotations

import logging
import os
import sys


class _StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment: tests and notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            sys.stderr.write(self.format(record) + "\n")


def configure_logging() -> None:
    """Let the logger ``fastbp`` print to stderr if the environment says ``FASTBP_VERBOSE=1``.

    Lines begin with the number of the process, for joblib's child processes print too. Without the variable
    (or with ``0``) nothing is touched, and the logger obeys the program's own logging set-up. May be called
    any number of times.
    """
    if os.environ.get("FASTBP_VERBOSE", "0") in ("", "0"):
        return
    logger = logging.getLogger("fastbp")
    if any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        return
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("fastbp[%(process)d] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
