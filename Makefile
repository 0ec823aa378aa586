# make demo | test | lint: each sets up its own environment first. PYTHON chooses the interpreter, VENV where the environment lies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint

setup: $(VENV)/.ready

# Made anew only when what it is made from changes.
$(VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: setup
	$(BIN)/python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	@test -x $(BIN)/pyright || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
