# Thin: every target calls one tool. `make` alone lists them.
# Paths are relative on purpose: the folder's own path may hold a space.
.DEFAULT_GOAL := help
.PHONY: help setup book test rehearse run execute lint regimes bench clean
SHELL := /bin/sh

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# the Python that makes the environment, 3.11 or newer
PIP_ARGS ?=
# more arguments for pip, for example an index with CPU builds of torch
NOTEBOOK ?=
PROFILE ?= laptop
STEPS ?=
# with `make run`: a rehearsal that stops every training after so many steps

PY := .venv/bin/python

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: .venv/installed ## make or mend the environment .venv

.venv/installed: requirements.txt pyproject.toml tools/setup_env.py
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed and none was found." >&2; exit 2; fi
	@"$(PYTHON)" tools/setup_env.py .venv $(PIP_ARGS)

book: setup ## render the book to _build/html
	@$(PY) -m tools.build

test: setup ## unit tests, then every notebook executed and compared, then the tests of the comparison
	@$(PY) -m pytest tests -m "not after_nbval and not rehearsal"
	@$(PY) -m pytest -n 2 --dist loadfile --nbval notebooks
	@$(PY) -m pytest tests -m after_nbval

rehearse: setup ## the full profile of every notebook for two steps (needs a mirror of the public data)
	@$(PY) -m pytest tests/test_commands.py -k full_profile

run: setup ## run one notebook as a script: NOTEBOOK=foundations/first_networks PROFILE=full
	@KARPA_PROFILE="$(PROFILE)" KARPA_STEPS="$(STEPS)" $(PY) -m tools.execute --script "$(NOTEBOOK)"

execute: setup ## re-make a notebook's committed pair and results: NOTEBOOK=foundations/training_loop
	@$(PY) -m tools.execute "$(NOTEBOOK)"

lint: setup ## style, format, and that every notebook is its script's pair
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m tools.pairs

regimes: setup ## compare every notebook under five kinds of arithmetic
	@$(PY) -m tools.regimes $(NOTEBOOK)

bench: setup ## the benchmarks, each beside its peers (installs requirements-bench.txt)
	@$(PY) -m pip --disable-pip-version-check --quiet install $(PIP_ARGS) -r requirements-bench.txt
	@for script in $(filter-out %/common.py, $(wildcard benchmarks/*.py)); do PYTHONPATH=. $(PY) "$$script" || exit; done

clean: ## remove what was built, the environment included
	@rm -rf .venv _build .pytest_cache .ruff_cache karpa_utils.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
