# Every target sets up what it needs: on a fresh machine with Python 3.11+, `make demo` and `make test` just work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What the environment was last set up with: "cpu torch==2.13.0".
SET_UP := $(shell cat $(READY) 2>/dev/null)
# One torch for everyone who runs the tests; say `make setup TORCH="torch==X"` (or set pip's index) for another build.
TORCH ?= $(or $(word 2,$(SET_UP)),torch==2.13.0)

# An NVIDIA driver shows itself in the kernel, by its tool or by its library (WSL has only the library). `make setup`
# looks for one, and installs ONNX Runtime for the GPU or for the CPU; GPU=1 and GPU=0 decide without looking.
DRIVER := /proc/driver/nvidia/version
DRIVER_LIBRARY := /usr/lib/wsl/lib/libcuda.so.1
FIND_DRIVER = test -e $(DRIVER) || test -e $(DRIVER_LIBRARY) || nvidia-smi -L || PATH="$$PATH:/sbin" ldconfig -p | grep 'libcuda\.so\.1 '
ifdef GPU
RUNTIME := $(if $(filter 1,$(GPU)),gpu,$(if $(filter 0,$(GPU)),cpu,$(error GPU must be 1 or 0, got $(GPU))))
else ifneq ($(filter cpu gpu,$(if $(filter setup,$(MAKECMDGOALS)),,$(SET_UP))),)
RUNTIME := $(word 1,$(SET_UP))
else
RUNTIME := $(if $(shell ($(FIND_DRIVER)) 2>/dev/null && echo found),gpu,cpu)
endif
OTHER_RUNTIME := $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
# ONNX Runtime must be built for the CUDA whose libraries torch brings.
EXTRA_OF_TORCH := import torch; print("gpu-cu12" if (torch.version.cuda or "13").startswith("12.") else "gpu")

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cpus test-slow test-gpu check format kernels docs weights wheels push clean again

help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY)  ## make .venv with everything that training, export and the tests need; for a GPU where there is one

# What was set up otherwise than is now wanted is set up again.
$(READY): pyproject.toml requirements.txt $(if $(filter-out $(SET_UP),$(RUNTIME) $(TORCH)),again)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tomopoint needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@# Two builds of ONNX Runtime share one folder: where the other one is, both go, and the right one comes whole.
	if $(BIN)/python -m pip show --quiet $(OTHER_RUNTIME) 2>/dev/null; then $(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu; fi
ifeq ($(RUNTIME),gpu)
	extra=$$($(BIN)/python -c '$(EXTRA_OF_TORCH)') && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$$extra,train,lab,cluster,cloud,search,kit,dev]"
	@$(BIN)/python -c 'import torch; torch.version.cuda or print("this torch is a build without CUDA, so training would not use the GPU: make setup TORCH=... (CONTRIBUTING.md)")'
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
endif
	@echo "$(RUNTIME) $(TORCH)" > $@

again:

demo: $(READY)  ## the whole road on simulated tomograms, under ten minutes; SCRATCH=1 from random weights, QUICK=1 for two minutes
	$(BIN)/python -m tomopoint demo $(if $(QUICK),--quick) $(if $(SCRATCH),--scratch) $(if $(OUT),--out $(OUT)) $(if $(SEED),--seed $(SEED))

test: $(READY)  ## the tests, about seven minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # one thread each: two processes fill two cores

test-cpus: $(READY)  ## the tests as other processors compute: with AVX2 only, then with two threads; ten minutes and more
	ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)  ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests/gpu

check: $(READY)  ## format, lint, types, notebooks in sync
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kernels: $(READY)  ## write the notebooks, and Kaggle's metadata, from kernels/*/*.py, kernels.toml and docs/lab.py
	$(BIN)/python -m tomopoint kernels
	$(BIN)/python -m tomopoint.kaggle.notebooks docs/lab.py

# The site's packages come here and not with `make setup`: nobody else needs them.
docs: $(READY)  ## build the site into site/, warnings as errors; SERVE=1 shows it at http://127.0.0.1:8000
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve,build) --strict

weights: $(READY)  ## make the model of the box, `small`, again from nothing: an hour of two cores; MINUTES=115 for more
	$(BIN)/python -m tomopoint picker --particles docs/examples/competition.yaml --voxel-size 10.012444309 --scratch --seed 20261121 --runs 64 --minutes $(or $(MINUTES),54) --out work/small
	$(BIN)/python -m tomopoint.picker.boxing work/small small

wheels: $(READY)  ## fetch the wheels that Kaggle's image lacks; DRY=1 only says which, TENSORRT=index or wheel
	$(BIN)/python -m tomopoint wheels $(if $(TENSORRT),--tensorrt $(TENSORRT)) $(if $(DRY),--dry-run)

push: $(READY)  ## upload the kit and both notebooks to Kaggle; DRY=1 lists what is in the way, KIT=folder, OVERTIME=1, WAIT=minutes, ONLY=submit
	$(BIN)/python -m tomopoint push $(or $(KIT),dist/kaggle-dataset) $(if $(DRY),--dry-run) $(if $(OVERTIME),--over-time) \
		$(if $(WAIT),--wait-minutes $(WAIT)) $(if $(ONLY),--only $(ONLY))

bench-%: $(READY)  ## measure one thing: bench-simulator, bench-assign, ...; ARGS="..." are its options
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## remove what the targets made (not the venv)
	rm -rf work dist build site .pytest_cache .mypy_cache .ruff_cache
