#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under eight minutes, from a checkout: the environment, the tests that
# carry the marker gpu, every operation's speed beside the ceilings of the card, and training beside PyTorch and JAX.
#
#     bash bench/gpu.sh [FOLDER]
#
# Nothing is installed or fetched. Needed are Python (PYTHON names another one), numba, numba-cuda and what fastbp itself
# needs; PyTorch, CuPy and JAX take part where they are. FOLDER (bench/results) gets gpu-NAME.json and the tests' log.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
out=${1:-bench/results}
mkdir -p "$out"
! command -v nvidia-smi >/dev/null || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -c 'import fastbp, sys; sys.exit(None if fastbp.has_gpu() else fastbp.backends()["cuda"])' || exit 1
# The CPU's extension, for the loss curves' other side: only if it can be built in a minute; else Numba's backend serves.
"$python" -c 'import fastbp, sys; sys.exit(fastbp.backends()["cython"] != "available")' ||
    timeout 90 "$python" setup.py --quiet build_ext --inplace >"$out/build.log" 2>&1 || true
status=0
timeout 240 "$python" -m pytest -q -x -m gpu -p no:cacheprovider tests/gpu 2>&1 | tee "$out/gpu-tests.log" | tail -n 15
[ "${PIPESTATUS[0]}" -eq 0 ] || status=1
timeout 200 "$python" bench/gpu.py --out "$out" || status=1
exit "$status"
