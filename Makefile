# Every target creates .venv if it is missing. Python 3.10 is needed for Lava (see README).
SHELL := /bin/bash
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint docs clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/bin/python:
	@python=$$(for p in python3.10 python3 python; do \
	    command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null && echo $$p && break; \
	done); \
	if [ -n "$$python" ]; then \
	    $$python -m venv .venv || { rm -rf .venv; echo "$$python cannot make a virtual environment; on Debian: apt-get install python3.10-venv"; exit 1; }; \
	elif command -v uv >/dev/null && uv venv --quiet --seed --python 3.10 .venv; then :; \
	else echo "Python 3.10 is needed (Lava runs on no other): uv python install 3.10, or pyenv install 3.10, or conda create -n lavasnn python=3.10"; exit 1; fi

# One stamp for each set of extras, renewed when the dependencies change.
.venv/.base: pyproject.toml | .venv/bin/python
	@echo "installing lavasnn with Lava and torch (a few minutes and about 6 GB the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.test: .venv/.base
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/.all: .venv/.base
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,neurobench,events]'
	@touch $@

.venv/.lint: .venv/.base
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

.venv/.docs: .venv/.base
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

demo: .venv/.base  ## Train, compile, run on Lava, prove and count, in half a minute
	@$(BIN)/lavasnn demo

test: .venv/.test  ## All tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" -rs

test-all: .venv/.all  ## Every test; needs LAVASNN_DATA, fails if one is skipped
	@if [ -z "$$LAVASNN_DATA" ]; then echo "test-all needs LAVASNN_DATA=folder with MNIST/raw, FashionMNIST/raw, cifar10_jpeg75_bytes.npz, nmnist_small_events.npz, nets/nir and nets/netx"; exit 1; fi
	@LAVASNN_NO_SKIPS=1 $(BIN)/python -m pytest -rs

bench: .venv/.test  ## Speed as ratios measured in one run; writes bench.json
	@$(BIN)/python -m lavasnn.cli.bench bench.json

lint: .venv/.lint  ## ruff, pyright (strict) and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

docs: .venv/.docs  ## The documentation as a web site in site/
	@$(BIN)/mkdocs build --strict --quiet

clean:  ## Remove .venv and what is built; trained models in runs/ stay
	@rm -rf .venv site bench.json
