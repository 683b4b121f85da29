# make demo: from nothing to a trained model and a report. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint format docs bench clean

help:
	@echo "make demo    install into $(VENV), train the tiny image model, write runs/demo/report.html"
	@echo "make test    install the development tools, run the tests"
	@echo "make lint    ruff (rules and format) and mypy"
	@echo "make docs    write docs/configuration.md anew"
	@echo "make bench   run every benchmark"

# One stamp for each set of packages: pip runs again only when pyproject.toml is newer.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mmrl needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/mmrl train --modality image --out runs/demo --fresh

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(VENV)/.installed
	$(BIN)/python docs/make_configuration.py

bench: $(VENV)/.installed-dev
	@found=0; for file in benchmarks/*.py; do \
		if [ -f "$$file" ]; then found=1; $(BIN)/python "$$file" || exit 1; fi; \
	done; if [ $$found = 0 ]; then echo "benchmarks/ holds no script"; fi

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
