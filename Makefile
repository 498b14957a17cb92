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

ADAPTERS := mace nequip sevennet chgnet orb matgl fairchem

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz docs clean adapters adapters-mace adapters-nequip adapters-sevennet adapters-chgnet adapters-orb adapters-matgl adapters-fairchem

help:
	@echo "make demo   train a small potential through relaxation and show the result"
	@echo "make test   run the tests, WORKERS=$(WORKERS) at a time"
	@echo "make check  formatting, lint, types, direction of imports"
	@echo "make fuzz   10,000 damaged files through the readers of data"
	@echo "make adapters   tests of the adapters to other packages, each in an environment of its own; or adapters-mace, ..."
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

adapters: $(ADAPTERS:%=adapters-%)

# Packages that want different e3nn cannot live together. constraints-adapters.txt says what each needs in place of
# constraints.txt; torch is the same everywhere.
$(ADAPTERS:%=adapters-%): adapters-%: .venv-adapters-%/.installed
	@.venv-adapters-$*/bin/python -m pytest -k $* tests/contracts/test_potentials.py tests/potentials/adapters

.venv-adapters-%/.installed: pyproject.toml constraints.txt constraints-adapters.txt
	@echo "setting up .venv-adapters-$* (once, some minutes)"
	@test -x .venv-adapters-$*/bin/python || $(PYTHON) -m venv .venv-adapters-$*
	@awk -v name=$* -f constraints-adapters.awk constraints-adapters.txt constraints.txt > .venv-adapters-$*/constraints.txt
	@.venv-adapters-$*/bin/python -m pip --disable-pip-version-check install -qq "$$(grep '^torch==' constraints.txt)"
	@.venv-adapters-$*/bin/python -m pip --disable-pip-version-check install -qq -c .venv-adapters-$*/constraints.txt \
		-e '.[$*]' pytest hypothesis beartype matscipy e3nn
	@touch $@

docs: $(DOCS_INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	@rm -rf $(VENV) .venv-adapters-* build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
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
