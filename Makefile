# The first two commands: `make demo` and `make test`.
#
# Everything is installed into .venv with the versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# Of `make demo`: where it writes, and further options of its two commands.
OUT ?= runs/demo
TRAIN ?=
CERTIFY ?=

# Of `make test`: how many of the random cases are drawn, `quarter` or `all`.
CASES ?= quarter

.PHONY: help demo test lint bench docs install clean

help:
	@echo "make demo   train, certify and report on 5,000 real digits (runs/demo)"
	@echo "make test   the test suite; CASES=all draws four times as many random cases"
	@echo "make lint   ruff and mypy --strict"
	@echo "make bench  speed, as ratios to a plain pass of the same network"
	@echo "make docs   the documentation, into site/"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: taut needs Python 3.11 or newer; run make with PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED)
	@if [ -e $(OUT)/config.json ]; then $(BIN)/taut train --resume $(OUT); \
	else $(BIN)/taut train demo --out $(OUT) $(TRAIN); fi
	@$(BIN)/taut certify $(OUT) $(CERTIFY)
	@$(BIN)/taut report $(OUT)

test: $(INSTALLED)
	TAUT_TEST_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/bounds.py
	$(BIN)/python benchmarks/crown.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/import_time.py

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
