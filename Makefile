# Two commands on a fresh machine with Python and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py MANIFEST.in $(shell find fastbp kernels -name '*.py' -o -name '*.pyx' -o -name '*.pyi' -o -name '*.pxi' -o -name '*.[ch]')
SKLEARN_VERSIONS ?= 1.7 1.8 1.9

.PHONY: demo test lint types pytest test-exhaustive test-sklearn-versions examples clean

demo: $(VENV)/installed-plot
	$(BIN)/fastbp demo

test: lint types pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# From another folder, so that what was installed is checked, not the checkout.
types: $(VENV)/installed-dev
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p fastbp

pytest: $(VENV)/installed-dev
	$(BIN)/pytest -n auto tests --ignore tests/simulated
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/pytest -n auto tests/simulated

test-exhaustive: $(VENV)/installed-dev
	$(BIN)/pytest -n auto -m exhaustive tests

# Each prints its result and writes examples/pictures/NAME.png; FASTBP_MNIST names the folder with MNIST's files.
examples: $(VENV)/installed-plot
	$(BIN)/python examples

# The drop-in tests on each supported minor release of scikit-learn, each in an environment of its own.
test-sklearn-versions: $(addprefix test-sklearn-,$(SKLEARN_VERSIONS))

test-sklearn-%: $(VENV)/installed-dev
	test -d $(VENV)-sklearn-$* || $(PYTHON) -m venv $(VENV)-sklearn-$*
	$(VENV)-sklearn-$*/bin/pip install --quiet ".[dev]" "scikit-learn==$*.*"
	$(VENV)-sklearn-$*/bin/pytest -n auto tests/test_sklearn_suite.py tests/test_parity.py tests/test_estimators.py \
		tests/test_estimator_failures.py tests/test_second_calls.py tests/test_workers.py tests/test_accelerate.py

# One stamp a set of extras; a change of any source installs anew.
$(VENV)/installed-%: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-sklearn-* build dist *.egg-info kernels/*.so kernels/cython_cpu.c kernels/cython_build.json
	find . -name __pycache__ -prune -exec rm -rf {} +
