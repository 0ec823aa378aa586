# make demo | test | lint | docs: each sets up its own environment first.
# PYTHON chooses the interpreter, VENV where the environment lies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --editable
OLD := Python 3.11 or newer is needed: make PYTHON=python3.12 ...

.PHONY: core setup demo test lint docs

# Made anew only when what they are made from changes: what a run needs, and what tests need, too.
core: $(VENV)/.core
setup: $(VENV)/.ready

$(VENV)/.core: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(OLD)")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) .
	@touch $@

$(VENV)/.ready: $(VENV)/.core
	$(PIP) '.[test]'
	@touch $@

demo: core
	$(BIN)/python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo

# In the order of names: sorted by their number of tests, slow files would come last.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	@test -x $(BIN)/pyright || $(PIP) '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site in build/site: open its index.html. A broken link or anchor is an error.
docs: core
	@test -x $(BIN)/mkdocs || $(PIP) '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
