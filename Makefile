# `make run` and `make test` do all their own set-up: a virtual environment at the versions pinned
# in constraints.txt. Nothing else is needed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= run_output
TEST_WORKERS ?= 2

.PHONY: run test lint bench clean

run: $(STAMP)
	$(BIN)/sparseconv run $(FILE) --out $(OUT)

test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_types.py

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only --benchmark-json=bench_output.json -q

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt setuptools
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install -q -c constraints.txt '.[open3d]' --no-build-isolation || true
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info run_output bench_output*
