# Three commands are all a newcomer needs: make run, make test, make lint.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build run test mutants lint format bench bench-wire bench-clients bench-scale bench-harm bench-readme fuzz soak wheel clean bench-disk
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo "make run     set up, build, start a broker, and watch real Kafka clients use it"
	@echo "make test    all tests                    make lint    style, types, import contracts"
	@echo "make bench   what each stage costs        make wheel   sdist and wheel under dist/"
	@echo "make mutants each flush, fence and invalidate taken away: does a test see it? (minutes; goes on where it was ended)"
	@echo "make fuzz MINUTES=10   look for input that breaks a parser, guided by coverage"
	@echo "make setup   .venv with .venv/bin/totalog make build   compile what changed in C"

setup: .venv/ready

.venv/ready: pyproject.toml engine/hatch_build.py
	@python=""; for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$name && break; done; \
	if [ -z "$$python" ]; then echo "totalog needs Python 3.11 or newer; python3 is $$(python3 -V 2>&1)" >&2; exit 1; fi; \
	$$python engine/core_build.py --check || exit 1; \
	$$python -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "totalog needs Python's venv module (Debian: apt install python3-venv)" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || $$python -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Bytecode too, which some environments are told not to write: without it each process of ours compiles its modules anew.
build: setup
	@$(BIN)/python engine/core_build.py
	@$(BIN)/python -m compileall -q gateway engine compat_tests

run: build
	@$(BIN)/python -m compat_tests.demo

# A suite at a time to each worker; see conftest.py. Tests wait for part of their time: three keep two processors busy.
test: build
	@$(BIN)/python -m pytest --numprocesses $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(if $(CI),--every-suite)

mutants: build
	@nice $(BIN)/python -m totalog.engine.sim.score

lint: build
	@failed=; for check in "ruff check" "ruff format --check" mypy "lint-imports --no-logo --cache-dir build/import-linter"; do \
	  echo "-- $$check"; $(BIN)/$$check || failed=1; done; [ -z "$$failed" ]

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: build
	@$(BIN)/python -m compat_tests.bench

bench-wire bench-clients bench-disk bench-scale bench-harm bench-readme: build
	@$(BIN)/python -m compat_tests.bench.$(@:bench-%=%) $(if $(KAFKA),$(if $(filter-out bench-scale bench-harm,$@),--kafka $(KAFKA)))

fuzz: build
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet atheris || echo "without atheris: at random"
	@$(BIN)/python -m totalog.gateway.tests.fuzz --minutes $(or $(MINUTES),10)

# The breaking kit for as long as one likes: make soak MINUTES=60
soak: build
	@$(BIN)/python -m compat_tests.breaking --minutes $(or $(MINUTES),5)

wheel: setup
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf build dist .venv
	find engine gateway -name '*.so' -delete
