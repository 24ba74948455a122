# Every target sets up what it needs: on a fresh machine with Python 3.11+, `make demo` and `make test` just work.
PYTHON ?= python3
# One torch for everyone who runs the tests; say `make TORCH="torch==X"` (or set pip's index) for another build.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format kernels wheels push clean

help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY)  ## make .venv with everything that training, export and the tests need

$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tomopoint needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)  ## the whole road on simulated tomograms, about 13 minutes; QUICK=1 for two minutes
	$(BIN)/python -m tomopoint demo $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT)) $(if $(SEED),--seed $(SEED))

test: $(READY)  ## the tests, under five minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # one thread each: two processes fill two cores

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## format, lint, types, notebooks in sync
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kernels: $(READY)  ## write the notebooks and their metadata from kernels/*/*.py and kernels.toml
	$(BIN)/python -m tomopoint.kaggle.notebooks

wheels: $(READY)  ## fetch the wheels that Kaggle's image lacks; DRY=1 only says which, TENSORRT=index or wheel
	$(BIN)/python -m tomopoint.kaggle.wheels $(if $(TENSORRT),--tensorrt $(TENSORRT)) $(if $(DRY),--dry-run)

push: $(READY)  ## upload the kit and both notebooks to Kaggle; DRY=1 lists what is in the way, KIT=folder, OVERTIME=1
	$(BIN)/python -m tomopoint push $(or $(KIT),dist/kaggle-dataset) $(if $(DRY),--dry-run) $(if $(OVERTIME),--over-time)

bench-%: $(READY)  ## measure one thing: bench-simulator, bench-assign, ...; ARGS="..." are its options
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## remove what the targets made (not the venv)
	rm -rf work dist build .pytest_cache .mypy_cache .ruff_cache
