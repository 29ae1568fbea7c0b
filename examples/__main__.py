"""Run all examples, or those that are named, and say what became of each.

    python examples [xor digits ...]

One that lacks its data says how to get it and counts as skipped. The exit status is 1 if one failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from drawing import SKIPPED

FOLDER = Path(__file__).parent
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "drawing"))


def run(name: str) -> str:
    """Run an example in a process of its own, as a user would; return what became of it."""
    print(f"\n{name}.py", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, FOLDER / f"{name}.py"], check=False).returncode
    outcome = {0: "done", SKIPPED: "SKIPPED, see above"}.get(status, f"FAILED, exit status {status}")
    return f"{name:26s} {time.perf_counter() - start:6.1f} s  {outcome}"


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(SCRIPTS))
    if unknown:
        print(f"there is no example {unknown[0]!r}; there are {', '.join(SCRIPTS)}", file=sys.stderr)
        return 2
    outcomes = [run(name) for name in names or SCRIPTS]
    print("", *outcomes, sep="\n")
    return int(any("FAILED" in outcome for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
