# make repro: the whole chain on the embedded default. make help lists the rest. Every target may be repeated.

PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# `python` in dvc.yaml is the environment's; nothing here phones home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where a shell has it set, as container images do, each of a stage's processes would compile the sources anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv repro ui test test-long style lint format audit dvc.yaml clean distclean

help: ## list the targets
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## (.*)/make \1\t\2/' | expand -t 16

venv: $(STAMP) ## make the environment

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	# most modules are never imported: compiling them all would take minutes
	$(BIN)/python -m pip install --no-compile -e ".[dev]" -c requirements.lock
	@touch $@

repro: $(STAMP) ## run what is stale (dvc repro), waiting for a run in progress; TARGETS="sft reward" narrows it
	$(BIN)/python -m tasks.repro $(TARGETS)

ui: $(STAMP) ## show Prefect's and MLflow's interfaces until Ctrl-C
	$(BIN)/python -m flows.ui

style: $(STAMP) ## check style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint: style ## check style and types
	$(BIN)/mypy rlhf tasks flows

format: $(STAMP) ## put the code into the common style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: style ## check style, then run the tests, the check of types among them
	$(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder --durations 15

test-long: $(STAMP) ## run the proofs that `make test` leaves out for their time
	$(BIN)/python -m pytest -m long

audit: ## ask the package index for known vulnerabilities of the locked versions (needs network)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet "pip-audit>=2.10,<3"
	# strict: a version that the index does not know is not passed over
	$(VENV)-audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip

dvc.yaml: $(STAMP) ## write what stages read and run into dvc.yaml, after a change of either
	$(BIN)/python -m rlhf.commands.dvc_yaml

clean: ## remove caches and logs; data, models and records stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis logs build dist
	find rlhf tasks flows tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environment and all that a fresh clone does not have, DVC's cache and MLflow's records included
	rm -rf $(VENV) $(VENV)-audit rlhf.egg-info data models metrics reports studies mlruns mlflow.db .prefect .checkpoints .failures .pending .dvc/cache .dvc/tmp rlhf/.code/algorithms/*/*.json
