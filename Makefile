# make help lists the targets. PYTHON=python3.12 make demo chooses the interpreter that .venv is made of.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo deploy-local llm dev test test-slow lint format bench notebook clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.installed ## make .venv with fedlab and its pinned dependencies; does nothing when they are there

demo: $(VENV)/.installed ## install, then run the main experiment: 1000 clients, one round
	$(BIN)/fedlab run

deploy-local: $(VENV)/.installed ## a SuperLink and 4 SuperNodes here, with TLS and node keys: AFL, the simulation's bits
	$(BIN)/fedlab deploy local

llm: $(VENV)/.installed-llm ## an OpenAI-compatible server of Gemma 270M on this machine; Ctrl-C ends it
	$(BIN)/fedlab llm serve

dev: $(VENV)/.installed-dev ## install, with what the tests and checks need

test: $(VENV)/.installed-dev ## lint, format, types, layers, and the tests of some minutes
	@echo "== ruff check" && $(BIN)/ruff check .
	@echo "== ruff format" && $(BIN)/ruff format --check .
	@echo "== basedpyright" && $(BIN)/basedpyright
	@echo "== import-linter" && $(BIN)/lint-imports
	@echo "== pytest" && $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/.installed-dev ## the tests that make test leaves out: whole runs, servers, kills and clusters
	@echo "== pytest, slow" && $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(VENV)/.installed-dev ## the checks without the tests
	@echo "== ruff check" && $(BIN)/ruff check .
	@echo "== ruff format" && $(BIN)/ruff format --check .
	@echo "== basedpyright" && $(BIN)/basedpyright
	@echo "== import-linter" && $(BIN)/lint-imports

format: $(VENV)/.installed-dev ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev ## the benchmarks of experiments/benchmarks, one after the other
	@for name in aggregation recursion sgd engine continual secagg unlearning dp_language augmentation; do echo "== $$name" && $(BIN)/python -m experiments.benchmarks.$$name || exit 1; done

notebook: $(VENV)/.installed-notebook ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab experiments/notebooks

clean: ## remove caches and build files; runs (outputs/) and .venv stay
	rm -rf build dist .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml or constraints.txt only when there may be something new to install.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedlab needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ": give another with PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.installed-llm: $(VENV)/.installed
	$(PIP) -e '.[llm]'
	@touch $@

$(VENV)/.installed-notebook: $(VENV)/.installed
	$(PIP) -e '.[notebook]'
	@touch $@
