# Every target does its own set-up: a virtual environment in .venv, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench gpu clean

demo: $(READY)
	$(BIN)/python -m actprune_gpu prune --target-flops 0.5 --out runs/demo --force

# A process for each core, each on one thread: on threads that share cores PyTorch is slow.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/* tests/emulator/*.hpp tests/emulator/*.c*

bench: $(READY)
	$(BIN)/python -m actprune_gpu.bench

# On the Python that has torch and CuPy: no set-up, no network.
gpu:
	$(PYTHON) bench/gpu.py

$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
