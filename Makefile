# Needs make and Python 3.10 to 3.13, nothing else: `make` lists what there is to do.

VERSIONS := 3.13 3.12 3.11 3.10

# A command of that name may be there and yet not run (a shim of pyenv, a Python without venv).
works = -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'
# $(call find_python,NAMES): shell words that print the first of these that works, or nothing.
find_python = for name in $(1); do \
	if "$$name" $(works) 2>/dev/null; then command -v "$$name"; break; fi; done
pyenv = $${PYENV_ROOT:-$$HOME/.pyenv}/versions

PYTHON ?= $(shell $(call find_python,$(VERSIONS:%=python%) python3))
VENV ?= .venv
REQUIREMENTS ?= requirements/dev.txt

run := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-quick test-conservation stack test-stack lint docs
.PHONY: benchmark benchmark-catching-up build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       see it work: runs the demonstration"
	@echo "make test       run the tests; all of the code must be covered"
	@echo "make test-all   run them with every Python from 3.10 to 3.13 that is found,"
	@echo "                and with the oldest dependencies"
	@echo "make stack      build the real collector, Jaeger and Prometheus for test-stack, with Go;"
	@echo "                once, into \$$STACK_CACHE or ~/.cache/rocketry-otel/stack"
	@echo "make test-stack run the tests of the configurations in this repository with them"
	@echo "make test-conservation"
	@echo "                kill applications again and again: nothing that was committed is lost;"
	@echo "                CONSERVATION_SEED=... repeats what chance did"
	@echo "make lint       check style, format and types"
	@echo "make docs       build the documentation into site/"
	@echo "make benchmark  measure what a task's run costs"
	@echo "make benchmark-catching-up"
	@echo "                measure how 200,000 records are caught up with"
	@echo "make build      build sdist and wheel into dist/ and try the wheel"
	@echo "make clean      remove all that the above has made"
	@echo "PYTHON=...      chooses the interpreter, here: $(or $(PYTHON),none found)"

demo:
	@$(MAKE) --no-print-directory .venv-demo/ready \
		VENV=.venv-demo REQUIREMENTS=requirements/demo.txt PYTHON="$(PYTHON)"
	@.venv-demo/bin/rocketry-otel demo

test: $(VENV)/ready
	$(run) -m pytest --cov --cov-report=term-missing:skip-covered

test-quick: $(VENV)/ready
	$(run) -m pytest --quiet

# Two at a time, for most of it is waiting; each has about half of it.
test-conservation: $(VENV)/ready
	@first="$(addprefix tests/conservation/,test_kills.py test_disk.py test_clock.py)"; \
	$(run) -m pytest -m conservation $$first & one=$$!; \
	$(run) -m pytest -m conservation $$(printf -- '--ignore=%s ' $$first) tests/conservation; \
	other=$$?; wait $$one && exit $$other

# Every version is tried even if one fails, so that one look tells all.
test-all:
	@passed=""; failed=""; missing=""; \
	try() { \
		echo; echo "== Tests with $$1 ($$2)"; \
		if $(MAKE) --no-print-directory test-quick PYTHON="$$2" VENV="$$3" REQUIREMENTS="$$4"; \
		then passed="$$passed, $$1"; else failed="$$failed, $$1"; fi; \
	}; \
	for version in $(VERSIONS); do \
		python=$$($(call find_python,python$$version $(pyenv)/$$version.*/bin/python)); \
		if [ -z "$$python" ]; then missing="$$missing, Python $$version"; continue; fi; \
		try "Python $$version" "$$python" ".venv-$$version" requirements/dev.txt; \
	done; \
	python=$$($(call find_python,python3.10 $(pyenv)/3.10.*/bin/python \
		python3.11 $(pyenv)/3.11.*/bin/python python3.12 $(pyenv)/3.12.*/bin/python)); \
	if [ -z "$$python" ]; then missing="$$missing, a Python for the oldest dependencies"; \
	else try "the oldest dependencies" "$$python" .venv-oldest requirements/oldest.txt; fi; \
	echo; \
	echo "Passed:  $${passed#, }"; \
	echo "Failed:  $${failed#, }"; \
	echo "Missing: $${missing#, }"; \
	[ -z "$$failed" ] && [ -n "$$passed" ]

stack: $(VENV)/ready
	@$(run) tests/stack/programs.py

test-stack: $(VENV)/ready
	$(run) -m pytest --stack tests/stack

lint: $(VENV)/ready
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy
	$(VENV)/bin/lint-imports --no-cache

docs: $(VENV)/ready
	$(run) -m mkdocs build --strict --quiet

benchmark: $(VENV)/ready
	$(run) benchmarks/cost_of_a_run.py

benchmark-catching-up: $(VENV)/ready
	$(run) benchmarks/catching_up.py

# `pip check` says whether the pinned versions are what the wheel itself asks for.
build: $(VENV)/ready
	rm -rf dist .venv-wheel
	$(run) -m build --no-isolation --outdir dist . > /dev/null
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install $(quietly) --require-hashes -r requirements/demo.txt
	.venv-wheel/bin/python -m pip install $(quietly) --no-deps dist/*.whl
	.venv-wheel/bin/python -m pip check
	.venv-wheel/bin/python -I -c 'import rocketry_otel; print(rocketry_otel.__file__)'
	@ls dist

clean:
	rm -rf .venv .venv-* dist site .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(wildcard src tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

quietly := --quiet --disable-pip-version-check

$(VENV)/ready: $(VENV)/requirements pyproject.toml
	@$(run) -m pip install $(quietly) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/requirements: $(REQUIREMENTS)
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.10 to 3.13 found: say PYTHON=..."; exit 1; fi
	@echo "Setting up $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(run) -m pip install $(quietly) --require-hashes -r $(REQUIREMENTS)
	@touch $@
