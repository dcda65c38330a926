# AKGP's common tasks. `make repro` and `make test` are all that a fresh clone needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup repro server s3 test test-slow test-ray chaos bench lint docs docs-serve clean

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The interpreter for $(VENV): the first of these that is 3.11 or newer.
PYTHONS ?= python3 python3.13 python3.12 python3.11

help:
	@echo 'make repro      run the pipeline of params.yaml; prints the table, writes reports/index.html'
	@echo 'make server     Prefect server with the deployments of prefect.yaml and a worker; Ctrl-C ends them'
	@echo 'make s3         S3 server for trying out; prints the AWS_* variables to export; Ctrl-C ends it'
	@echo 'make test       run the quick tests; test-slow: those of minutes; test-ray: jobs killed, nodes lost'
	@echo 'make chaos      kill, cut off and damage every part of a running pipeline; writes results/chaos'
	@echo 'make lint       ruff and mypy'
	@echo 'make docs       the documentation as a site: site/index.html; docs-serve: while writing it'
	@echo 'make setup      create $(VENV) with everything, development tools included'
	@echo 'make clean      remove what lint, tests and builds leave; artifacts and $(VENV) stay'

setup: $(VENV)/.dev

# One stamp a set of extras: packages are installed again when the ranges or the pins change.
$(VENV)/.pipeline: EXTRAS := pipeline
$(VENV)/.dev: EXTRAS := pipeline,dev
$(VENV)/.pipeline $(VENV)/.dev: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV) $(EXTRAS) $(PYTHONS)
	@touch $@ $(if $(findstring dev,$(EXTRAS)),$(VENV)/.pipeline)  # dev holds pipeline

repro: $(VENV)/.pipeline
	@akgp params check --quiet
	@python -m flows.repro
	@akgp report

server: $(VENV)/.pipeline
	@exec python -m flows.server $(if $(PORT),--port $(PORT))

s3: setup
	@exec python -m infra.s3 $(if $(PORT),--port $(PORT))

# Each worker takes up to 2 GB; the tests of a file share servers, clusters and trainings, and so a worker.
WORKERS := 2
PYTEST = python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --durations 10

test: setup
	@$(PYTEST)

# They wait for processes, servers and outages as much as they compute.
test-slow test-ray: WORKERS := 3
test-slow: setup  # in the order of tests/conftest.py: the longest first
	@$(PYTEST) -m slow --no-loadscope-reorder

test-ray: setup
	@$(PYTEST) -m ray

chaos: setup
	@python -m benchmarks.chaos $(if $(SEED),--seed $(SEED)) $(if $(FRESH),--fresh) $(if $(ONLY),--only '$(ONLY)')

bench: setup
	@python -m benchmarks.speed.training

lint: setup
	@ruff check .
	@ruff format --check .
	@mypy

# The theme's makers announce the end of MkDocs 1 at every build.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1
docs: setup
	@mkdocs build  # --quiet would hide warnings from `strict` too

docs-serve: setup
	@mkdocs serve

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find akgp flows tests -name __pycache__ -type d -prune -exec rm -rf {} +
