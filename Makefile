# `make run` and `make test` do all their own set-up: a virtual environment with the versions of
# constraints.txt. Nothing else is needed but Python 3.11 or newer and its venv module.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= run_output
FILE ?=
MODEL ?= VoxelBackBone8x
BENCH_OUT ?= bench_output
BENCH ?=
TEST_WORKERS ?= 2

.PHONY: run test lint bench clean

# A 64-beam scan (FILE=scan.bin, or a simulated street) through a detector's backbone.
run: $(STAMP)
	OMP_WAIT_POLICY=passive $(BIN)/sparseconv run $(if $(FILE),"$(FILE)") --model "$(MODEL)" --out "$(OUT)"

test: lint
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_types.py

# This library beside plain torch and its peers, each in an environment of its own. BENCH='--quick --peers none'
bench: $(STAMP)
	$(BIN)/sparseconv bench --out $(BENCH_OUT) $(BENCH)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt setuptools
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[test]'
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[open3d]' \
		|| echo 'note: Open3D could not be installed here; the built-in ray caster and readers are used instead'
	@$(BIN)/python -c "from sparseconv.datasets.open3d_import import open3d_problem as p; p() and print('note:', p())"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info run_output bench_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
