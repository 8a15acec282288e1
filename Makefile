PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
QUIET := $(VENV)/.quiet
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
# `make FAISS=gpu demo` installs the CUDA build of Faiss instead.
FAISS ?= cpu

# As if the environment were activated, for dg looks for it.
export VIRTUAL_ENV := $(abspath $(VENV))
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help install demo test tests lint format hooks ui mlflow pictures clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) '.[$(FAISS)]'
	touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) '.[dev,postgres,s3]'
	touch $@

# `dg` reports that it was used before it reads a file of this folder, and MLflow to whoever imports it.
$(QUIET): quiet.pth $(INSTALLED)
	printf '[cli.telemetry]\nenabled = false\n' > $(VENV)/dg.toml
	cp quiet.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	touch $@

install: $(QUIET) ## Create .venv with all that runs need

demo: $(QUIET) ## Run the whole pipeline on the built-in sample and print the leaderboard
	dg launch --job pipeline --partition sample --config-json '{"loggers": {"console": {"config": {"log_level": "INFO"}}}}'
	@python -m ms_assets sample

test: $(QUIET) $(TESTABLE) ## Check style and types, and run every test that needs no GPU
	@# Side by side: one process checks types, and tests leave the second core idle at times.
	@$(MAKE) --no-print-directory --jobs 2 lint tests

tests: $(TESTABLE)
	@# Bytecode is kept, whatever the environment says, or every process that a test starts would compile the package.
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 python -m pytest -m 'not gpu and not slow' -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(TESTABLE) ## Check style and types
	ruff check .
	ruff format --check .
	mypy

format: $(TESTABLE) ## Format the code
	ruff check --fix .
	ruff format .

hooks: $(TESTABLE) ## Run lint's checks before each commit
	pre-commit install

ui: $(QUIET) ## Open the Dagster UI (http://127.0.0.1:3000) with its daemon
	dg dev --host 127.0.0.1

mlflow: $(QUIET) ## Open the MLflow UI (http://127.0.0.1:5000)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false python -m ms_assets mlflow

pictures: $(QUIET) $(TESTABLE) ## Take the README's pictures anew, after `make demo`
	python -m ms_assets_tests.pictures docs/images

clean: ## Remove everything generated, the virtual environment excepted
	rm -rf var
