# Everything from nothing: `make quickstart`, `make test`. Needs Python 3.11-3.13 and make; uses uv where it is installed.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	>/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
JOBS ?= 2
RUN ?= runs/quickstart
MODEL ?=
SET ?=
BUNDLE ?= runs/s2

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
	$(BIN)/mobileclip build quickstart --out $(RUN) $(if $(strip $(MODEL)$(SET)),--set $(if $(MODEL),model=$(MODEL) segmentation= depth=) $(SET))

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	@test -e $(BUNDLE)/manifest.json || $(BIN)/mobileclip export seeded:mobileclip_s2 --out $(BUNDLE)
	$(BIN)/mobileclip bench $(BUNDLE) --against swin-l swin-b vit-b16 naive onnx --to executorch-xnnpack --operators --out benchmarks/results/host
	$(BIN)/mobileclip report benchmarks/results/host --into README.md

clean:
	rm -rf .venv runs build *.egg-info
