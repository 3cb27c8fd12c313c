.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo

.PHONY: help demo test test-slow fuzz lint bench clean

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

lint: $(VENV)/.installed ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## Measure what needs no data (docs/speed.md has all commands)
	$(BIN)/python benchmarks/engine.py --groups 2 --rounds 1
	$(BIN)/python benchmarks/pipeline_overhead.py
	$(BIN)/python benchmarks/derive.py
	$(BIN)/python benchmarks/report.py

clean: ## Remove the environment and outputs
	rm -rf $(VENV) out
