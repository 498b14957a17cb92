# Every target sets itself up on a fresh machine: a virtual environment in .venv, made once, made again
# when pyproject.toml or constraints.txt changes. Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt

# Several threads on small matrices are slower than one, and far slower when the other core is busy.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz docs clean

help:
	@echo "make demo   train a small potential through relaxation and show the result"
	@echo "make test   run the tests, WORKERS=$(WORKERS) at a time"
	@echo "make check  formatting, lint, types, direction of imports"
	@echo "make fuzz   10,000 damaged files through the readers of data"
	@echo "make docs   build the documentation into site/"
	@echo "make clean  remove the environment and everything built; runs/ stays"

demo: $(INSTALLED)
	@$(BIN)/thalweg demo

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(WORKERS)

check: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_house.py -k imports

fuzz: $(INSTALLED)
	@$(BIN)/python -W ignore -m tests.structures.fuzzing 10000

docs: $(DOCS_INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	@rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, at its exact version: a resolver that is free to choose among its builds
# can fetch gigabytes of GPU libraries nobody asked for.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("thalweg needs Python 3.11 or later, this is " + sys.version.split()[0] + ": run make PYTHON=python3.12 (or the like)" if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV) (once, some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -e '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	@$(PIP) -e '.[docs]'
	@touch $@
