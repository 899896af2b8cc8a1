# One environment in .venv, made from pyproject.toml and constraints.txt. Needs Python 3.11 or newer, nothing else.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Folders with code, so that cleaning never walks into .venv or a data folder.
CODE := plugin retriever trainer tests

.DEFAULT_GOAL := help
.PHONY: help demo test lint types tests serve clean

# What is imported is compiled once and kept, which is less than pip would compile; also where Python is told not to.
export PYTHONDONTWRITEBYTECODE :=

# The weights come with the package of the extra `offline`: neither the demo nor the tests may download any.
demo test tests: export HF_HUB_OFFLINE := 1

# Touched last: an interrupted installation is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "clickloop needs Python 3.11 or newer as PYTHON, which is '$(PYTHON)'." \
			"Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv, which takes some minutes the first time …"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[cpu,offline,dev]"
	@touch $@

demo: $(INSTALLED) ## the whole loop on the Python documentation, into ./clickloop-demo
	$(BIN)/clickloop demo

test: lint types tests ## what CI runs: lint, types and tests

lint: $(INSTALLED) ## ruff, format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED) ## mypy
	$(BIN)/mypy

# Two processes with one thread each: many tests wait for a process to start, and torch's threads fight over few cores.
tests: $(INSTALLED) ## pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

serve: $(INSTALLED) ## API, admin pages and schedule on port 8000
	$(BIN)/clickloop serve

clean: ## remove build outputs and caches, never data (nor .venv)
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis __pycache__
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@echo "make demo      is the first thing to try. All targets:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile | while IFS='	' read -r target text; do \
		printf '  %-8s %s\n' "$$target" "$$text"; done
