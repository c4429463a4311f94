# `make demo` and `make test` set a fresh machine up: Debian, Python 3.11 or newer, make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTS_AT_ONCE ?= 3
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo check test unit model chaos fuzz bench bench-short format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python venv is missing: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into $(VENV) (torch takes some minutes) ..." >&2
	$(PIP) --constraint constraints.txt torch torchvision
	$(PIP) --constraint constraints.txt --editable ".[local,api,dev,bench]"
	@touch $@

install: $(INSTALLED)  ## build .venv with vidan and all tools

demo: $(INSTALLED)  ## detect objects in the sample video; demo/ gets predictions.jsonl, annotated.mp4
	$(BIN)/vidan run --sample --out demo

check: $(INSTALLED)  ## check format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(INSTALLED)  ## run the tests; those on a real Kafka need Java 17 and Maven
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE)

# Settings of the three targets below. VIDEOS is a folder of your own; without it videos are made.
SEED ?= 1
STEPS ?= 100000
KILLS ?= 200
BROKER ?= both
VIDEOS ?=
DAMAGED ?= 500
MESSAGES ?= 10000

model: $(INSTALLED)  ## run the model test alone, and longer: make model STEPS=100000 SEED=7
	VIDAN_MODEL_STEPS=$(STEPS) VIDAN_MODEL_SEED=$(SEED) $(BIN)/python -m pytest tests/model

chaos: $(INSTALLED)  ## kill everything and check that nothing is lost: SEED=1 KILLS=200 BROKER=both VIDEOS=folder
	$(BIN)/python -m tests.chaos --seed $(SEED) --kills $(KILLS) --broker $(BROKER) \
	  $(if $(VIDEOS),--videos "$(VIDEOS)")

fuzz: $(INSTALLED)  ## run damaged videos and bad messages: SEED=1 DAMAGED=500 MESSAGES=10000
	FUZZ_SEED=$(SEED) FUZZ_VIDEOS=$(DAMAGED) FUZZ_MESSAGES=$(MESSAGES) \
	  $(BIN)/python -m pytest tests/fuzz

# Each prints a table and writes it to build/benchmarks, with its JSON. `tasks` needs redis-server.
BENCHMARKS := overhead slots tasks growth memory start recovery

bench: $(INSTALLED)  ## run all benchmarks, about an hour: make bench BENCHMARKS="overhead tasks"
	@mkdir -p build/benchmarks
	@for name in $(BENCHMARKS); do echo "== $$name" && $(BIN)/python benchmarks/$$name.py \
	  --json build/benchmarks/$$name.json > build/benchmarks/$$name.txt || exit 1; \
	  cat build/benchmarks/$$name.txt; done

bench-short: $(INSTALLED)  ## run a short form of two benchmarks, which print figures and fail on none
	$(BIN)/python benchmarks/overhead.py --short
	$(BIN)/python benchmarks/tasks.py --short

unit: $(INSTALLED)  ## run the tests that need no database, broker or process: seconds
	$(BIN)/python -m pytest -m unit

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove everything that was built
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
