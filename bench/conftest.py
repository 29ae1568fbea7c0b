"""The benchmark cases check their operations with what the tests check them with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
