.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
LOWEST := .venv-lowest
LOWEST_PYTHON ?= python3.11
LOWEST_TORCH ?= torch==2.9.0
LOWEST_TESTS ?= tests/data tests/deriving tests/recipe tests/models tests/scorers tests/engine

.PHONY: help demo test test-slow test-lowest fuzz lint bench clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## Score the sample data on this machine and show ranked results
	@$(BIN)/polar-ray run pipelines/demo.yaml output.path=$(OUT) --fresh --show 4

test: $(VENV)/.installed ## Run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(VENV)/.installed ## Run the tests that take most of a minute each
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m slow

fuzz: $(VENV)/.installed ## Fuzz for an hour, from a new seed
	POLAR_RAY_FUZZ_SEED=$${POLAR_RAY_FUZZ_SEED:-$$(date +%s)} POLAR_RAY_FUZZ_S=$${POLAR_RAY_FUZZ_S:-240} \
		$(BIN)/python -m pytest -q -n 2 --dist load --timeout 1200 tests/fuzz

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --requirement constraints-lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt $(LOWEST_TORCH)
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

test-lowest: $(LOWEST)/.installed ## Run the tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning $(LOWEST_TESTS)

lint: $(VENV)/.installed ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## Measure what needs no data (docs/speed.md has all commands)
	$(BIN)/python benchmarks/engine.py --groups 2 --rounds 1
	$(BIN)/python benchmarks/pipeline_overhead.py
	$(BIN)/python benchmarks/derive.py
	$(BIN)/python benchmarks/report.py

clean: ## Remove the environments and outputs
	rm -rf $(VENV) $(LOWEST) out
