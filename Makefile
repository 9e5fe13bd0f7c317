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
.PHONY: help demo test test-all test-quick test-rocketry test-pips test-first-hour
.PHONY: test-conservation test-conservation-long
.PHONY: stack test-stack test-notebook lint docs docs-browser bench benchmark-smoke build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       see it work: runs the demonstration"
	@echo "make test       run the tests; all of the code must be covered"
	@echo "make test-quick run the tests without coverage"
	@echo "make test-all   run them with every Python from 3.10 to 3.13 that is found, beside"
	@echo "                pydantic 2, and with the oldest dependencies, two at a time"
	@echo "make stack      build the real collector, Jaeger, Prometheus, VictoriaLogs for test-stack;"
	@echo "                with Go (and Kafka, with Maven), once, into \$$STACK_CACHE or ~/.cache/rocketry-otel/stack"
	@echo "make test-stack run the tests of the configurations in this repository with them"
	@echo "make test-notebook"
	@echo "                run a scheduler in the cells of a notebook, with a real kernel"
	@echo "make test-rocketry"
	@echo "                run Rocketry's own tests with its handler and with ours, and compare"
	@echo "make test-conservation"
	@echo "                kill applications again and again: nothing that was committed is lost;"
	@echo "                CONSERVATION_SEED=... repeats the random choices"
	@echo "make test-conservation-long"
	@echo "                kill them ten times as often"
	@echo "make test-pips  build each environment with the oldest pip and the newest, for each Python"
	@echo "make test-first-hour"
	@echo "                try make demo in a fresh clone with Python and make only, no HOME, no cache"
	@echo "make lint       check style, format, types, imports of the rooms and words"
	@echo "make docs       build the documentation into site/; a warning or a broken link is an error"
	@echo "make docs-browser"
	@echo "                look at it with Chromium and axe, on a phone and in the dark"
	@echo "make bench      measure what everything costs; ONLY=cost_of_a_run chooses one benchmark,"
	@echo "                BENCH=--large takes the sizes that take long, too"
	@echo "make benchmark-smoke"
	@echo "                see that the benchmarks work"
	@echo "make build      build sdist and wheel into dist/ and try the wheel"
	@echo "make clean      remove all that the above has made"
	@echo "PYTHON=...      chooses the interpreter, here: $(or $(PYTHON),none found)"

demo:
	@$(MAKE) --no-print-directory .venv-demo/ready \
		VENV=.venv-demo REQUIREMENTS=requirements/demo.txt PYTHON="$(PYTHON)"
	@.venv-demo/bin/rocketry-otel demo

# JOBS=2 runs them in two processes.
JOBS ?=
test: $(VENV)/ready
	$(run) -m pytest $(if $(JOBS),-n $(JOBS)) --cov --cov-report=term-missing:skip-covered

# Without coverage; MARK="not slow and not conservation" leaves out the slow tests.
test-quick: $(VENV)/ready
	$(run) -m pytest --quiet $(if $(MARK),-m "$(MARK)")

# With Red Bird's handler and with ours: none may fail with ours alone.
test-rocketry: $(VENV)/ready
	$(run) tests/rocketry_suite/compare.py

# Two halves at a time, for most of it is waiting. The first writes into a file, which is shown when
# both have ended. An interrupt or a failure of make ends both.
first_half := $(addprefix tests/conservation/,test_kills.py test_disk.py test_clock.py \
	test_servers.py)
test-conservation: $(VENV)/ready
	@output=$$(mktemp); \
	$(run) -m pytest -m conservation $(first_half) > "$$output" 2>&1 & half=$$!; \
	trap 'kill $$half 2> /dev/null; rm -f "$$output"' EXIT; trap 'exit 130' INT TERM HUP; \
	$(run) -m pytest -m conservation $(first_half:%=--ignore=%) tests/conservation \
		tests/repositories/test_contract.py; second=$$?; \
	wait $$half; first=$$?; cat "$$output"; \
	echo "Conservation: the halves ended with status $$first and $$second"; \
	[ $$first -eq 0 ] && [ $$second -eq 0 ]

# Ten times as many kills: about half an hour.
test-conservation-long: $(VENV)/ready
	CONSERVATION_TIMES=10 $(run) -m pytest -m conservation tests/conservation/test_kills.py

# These three need no environment: they make their own.
pythons = $(foreach version,$(VERSIONS),"$(version)=$(shell \
	$(call find_python,python$(version) $(pyenv)/$(version).*/bin/python))")
# TESTED=3.11 leaves out the tests with Python 3.11 that `make test` has run.
test-all:
	@"$(PYTHON)" requirements/matrix.py tests $(TESTED:%=--tested=%) $(pythons)

test-pips:
	@"$(PYTHON)" requirements/matrix.py pips $(pythons)

test-first-hour:
	@.ci/first-hour $(pythons)

# Needs no environment: the file imports the standard library only.
stack:
	@"$(PYTHON)" tests/stack/programs.py

test-stack: $(VENV)/ready
	$(run) -m pytest --stack tests/stack

# The kernel has an environment of its own, because its packages are as large as all others.
test-notebook: $(VENV)/ready
	@$(MAKE) --no-print-directory .venv-notebook/ready \
		VENV=.venv-notebook REQUIREMENTS=requirements/notebook.txt PYTHON="$(PYTHON)"
	NOTEBOOK_PYTHON="$(CURDIR)/.venv-notebook/bin/python" $(run) -m pytest tests/notebook

lint: $(VENV)/ready
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(run) lint/words.py

docs: $(VENV)/ready
	rm -rf site
	$(run) -m sphinx -E -W --keep-going -n -q -b html -d site/.doctrees docs site
	$(run) lint/links.py

# Outside of CI: it needs Chromium, and npm to fetch axe once.
AXE ?= .axe/node_modules/axe-core/axe.min.js
$(AXE):
	npm install --silent --no-fund --no-audit --prefix .axe axe-core@4.14.1

docs-browser: docs $(AXE)
	$(run) lint/browser.py $(AXE) $(PAGES)

bench: $(VENV)/ready
	$(run) benchmarks/all.py $(ONLY:%=--only %) $(BENCH)

# Their shortest form: it shows that they work, and measures nothing.
benchmark-smoke: $(VENV)/ready
	$(run) benchmarks/all.py --smoke

# The wheel is tried in an environment of its own, whose check compares it with the pinned versions.
build: $(VENV)/ready
	rm -rf dist .venv-wheel
	$(run) -m build --no-isolation --outdir dist . > /dev/null
	@$(MAKE) --no-print-directory .venv-wheel/requirements \
		VENV=.venv-wheel REQUIREMENTS=requirements/demo.txt PYTHON="$(PYTHON)"
	.venv-wheel/bin/python $(install_wheel) dist/*.whl
	@$(call check,.venv-wheel/bin/python,requirements/demo.txt)
	.venv-wheel/bin/python -I -c 'import rocketry_otel; print(rocketry_otel.__file__)'
	@ls dist

clean:
	rm -rf .venv .venv-* .axe dist site .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(wildcard src tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

quietly := --quiet --disable-pip-version-check

# A pinned file lists all that is installed. pip resolves nothing, builds nothing, and takes only
# files whose hashes are listed; so a new release of a dependency changes nothing here.
install_pinned = -m pip install $(quietly) --no-deps --only-binary :all: --require-hashes -r
# A wheel of the project itself: no index is asked for anything.
install_wheel = -m pip install $(quietly) --no-index --no-deps
# $(call silently,COMMAND): its output is shown only if it fails.
silently = output=$$($(1) 2>&1) || { echo "$$output"; exit 1; }
# $(call check,PYTHON,FILE): the environment has what the file lists, and that is enough.
check = $(call silently,$(1) -m pip check --disable-pip-version-check); \
	$(1) -I requirements/check.py $(2)

# What `pip install` is given to change the environment's own pip: nothing, or say pip==23.0.1.
WITH_PIP ?=

# An editable wheel, for pip can make none before 21.3; Python 3.10.0 brings 21.2.3.
$(VENV)/ready: $(VENV)/requirements pyproject.toml requirements/check.py
	@rm -rf $(VENV)/wheel
	@$(call silently,$(run) -m hatchling build -t wheel:editable -d $(VENV)/wheel)
	@$(run) $(install_wheel) --force-reinstall $(VENV)/wheel/*.whl
	@$(call check,$(run),$(REQUIREMENTS))
	@touch $@

$(VENV)/requirements: $(REQUIREMENTS)
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.10 to 3.13 found: say PYTHON=..."; exit 1; fi
	@echo "Setting up $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@if [ -n "$(WITH_PIP)" ]; then $(run) -m pip install $(quietly) --no-deps $(WITH_PIP); fi
	@$(run) $(install_pinned) $(REQUIREMENTS)
	@touch $@
