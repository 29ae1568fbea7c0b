"""``python -m fastbp script.py``: a script runs with scikit-learn's MLP classes replaced by fastbp's."""

from __future__ import annotations

import sys

from .accelerate import run_script

if __name__ == "__main__":
    run_script(sys.argv[1:])
