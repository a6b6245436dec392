# Every target prints what it is missing when it cannot run, and what to do.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Tests wait for pods, leases and timeouts for half of their time: two at once, however many CPUs there are.
SIDE_BY_SIDE := --numprocesses 2 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## The whole loop on a real cluster: cluster, images, chart, agent, learning, rollout (first run: build)
	$(PYTHON) hack/demo

demo-down: ## Remove the demo's cluster (builds stay in the cache)
	$(PYTHON) hack/cluster down --name demo

test: venv lint ## All tests, those on a real cluster included
	$(RUN)/python hack/cluster doctor --provider built
	$(RUN)/python -m pytest tests --ignore=tests/torture $(SIDE_BY_SIDE)

torture: venv ## Long proofs (crash points, kills under load); prints tables, writes docs/results/
	$(RUN)/python -m pytest -s tests/torture

bench: venv ## Measurements; prints tables, writes docs/results/
	$(RUN)/python -m benchmarks

lint: venv ## ruff, mypy --strict, import-linter
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: venv ## Format and fix what ruff can fix
	$(RUN)/ruff check --fix . ; $(RUN)/ruff format .

crds: venv ## Write crds/ (and the chart's copy) from the API models
	$(RUN)/python -m evolving_operator crds crds charts/evolving-agents/files/crds

images: ## Build the container images
	$(PYTHON) hack/images build

lock: ## Renew requirements/*.lock
	$(PYTHON) hack/lock

venv: ## The development environment in .venv
	@$(PYTHON) hack/venv $(VENV)

.PHONY: help demo demo-down test torture bench lint format crds images lock venv
