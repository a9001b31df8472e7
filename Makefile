# Everything from nothing: `make quickstart`, `make test`. Needs Python 3.11-3.13 and make; uses uv where it is installed.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	>/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
OUT ?= runs/quickstart
MODEL ?= seeded:mobileclip_s2

.PHONY: install quickstart test lint bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found: install one, or pass PYTHON=/path/to/python"; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
		$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --upgrade pip && \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

quickstart: install
	@test -e $(OUT)/manifest.json || $(BIN)/mobileclip export $(MODEL) --out $(OUT)
	$(BIN)/mobileclip verify $(OUT) $(if $(wildcard ../shared/data/photos/images),--images ../shared/data/photos/images --limit 8)
	$(BIN)/mobileclip bench $(OUT) --against naive --to executorch-xnnpack onnx --runs 20 --out runs/results
	@echo
	@echo "The bundle is $(OUT); its weights are $(MODEL) (seeded: untrained, good for sizes, parity and speed only)."

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/mobileclip bench $(OUT) --against swin-l naive onnx --out benchmarks/results/host
	$(BIN)/mobileclip report benchmarks/results/host --into README.md

clean:
	rm -rf .venv runs build *.egg-info
