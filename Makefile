# Each target sets up what it needs and is quick when that is there already.
#   make demo         the hub, a small image, and a container of it, start to end
#   make test         everything that needs no outside suite
#   make check        lint, format, types, known holes, imports
#   make conformance SUITE=/path/to/binary
#   make bench        [ROUNDS=5] [ZOT=/path] [ZB=/path]
#   make soak         [SOAK_KILLS=500] [SOAK_SCALED_KILLS=200] [SOAK_COLLECTIONS=500]
#   make install      .venv/bin/portside

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Debian's own Python runs this a quarter faster than builds without profile-guided optimisation.
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
PRODUCT := oci storage auth remote registry runtime cli
SOURCES := $(PRODUCT) tests bench scripts demo

# What a person may set.
ROUNDS ?= 5
SOAK_KILLS ?= 500
SOAK_SCALED_KILLS ?= 200
SOAK_COLLECTIONS ?= 500
SUITE ?=
ZOT ?=
ZB ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help install demo test check conformance bench soak clean as-root packages-install packages-demo packages-test packages-bench

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

packages-install packages-demo packages-test packages-bench: packages-%:
	@$(PYTHON) scripts/packages.py $*

# Containers, daemons and mounts of their own.
as-root:
	@[ "$$(id -u)" = 0 ] || { echo "portside: this starts containers, daemons and mounts, which needs root. Run:  sudo make $(MAKECMDGOALS)"; exit 1; }

$(BIN)/python: | packages-install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "portside: $(PYTHON) is older than 3.11. Run:  make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@echo "portside: making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The second stamp holds what the first does, so that a checkout made for testing stays so.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "portside: installing into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	@echo "portside: installing into $(VENV), with what the tests need"
	@$(PIP) -e '.[test]'
	@touch $@ $(VENV)/installed

install: packages-install $(VENV)/installed
	@echo "portside: $(CURDIR)/$(BIN)/portside"

demo: packages-demo $(VENV)/installed
	@$(BIN)/python -m demo

check: packages-install $(VENV)/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/bandit -q -c pyproject.toml -r $(PRODUCT)
	$(BIN)/python scripts/audit.py
	$(BIN)/python -m pytest tests/test_imports.py

test: as-root packages-test $(VENV)/installed-test
	@$(PYTHON) scripts/gotools.py crane regctl helm cosign registry versitygw minio docker-compose
	$(BIN)/python -m pytest tests -n 2 --dist loadfile $(PYTEST_ARGS)

conformance: packages-install $(VENV)/installed
	@$(BIN)/python scripts/conformance.py "$(SUITE)"

bench: as-root packages-bench $(VENV)/installed-test
	@$(PYTHON) scripts/gotools.py crane registry versitygw
	@mkdir -p .build
	$(BIN)/python -m bench --rounds $(ROUNDS) $(if $(ZOT),--zot "$(ZOT)") $(if $(ZB),--zb "$(ZB)") \
	  --registry "$$($(PYTHON) scripts/gotools.py --path registry)" --crane "$$($(PYTHON) scripts/gotools.py --path crane)" \
	  --versitygw "$$($(PYTHON) scripts/gotools.py --path versitygw)" \
	  --json .build/bench.json $(BENCH_ARGS)
	$(BIN)/python -m bench.report .build/bench.json > .build/bench.md && mv .build/bench.md bench/README.md

soak: as-root packages-test $(VENV)/installed-test
	@$(PYTHON) scripts/gotools.py crane registry versitygw minio
	PORTSIDE_SOAK_KILLS=$(SOAK_KILLS) PORTSIDE_SOAK_SCALED_KILLS=$(SOAK_SCALED_KILLS) PORTSIDE_SOAK_COLLECTIONS=$(SOAK_COLLECTIONS) \
	  $(BIN)/python -m pytest tests/durability/test_kill.py tests/durability/test_collecting.py tests/scale/test_kill.py \
	  --timeout 14400 $(PYTEST_ARGS)

clean:
	rm -rf .build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis conformance-results build *.egg-info
