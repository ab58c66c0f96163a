# Needs make and Python 3.10 or later, nothing else. The first run of a target makes the virtual
# environment and installs what the target needs; later runs find it there.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

MAKEFLAGS += --no-print-directory
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# A part of the suite cannot reach the coverage asked of the whole, so only the whole is measured.
WHOLE := $(if $(strip $(ARGS)),,-m "not slow" --cov --cov-report=term)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test tox lint types soak measure diagrams requirements errors metrics faults \
        generated conformance fuzz docs build check clean

help: ## print this list
	@echo "usage: make TARGET [ARGS='passed on'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-demo ## lose a live connection in several ways and watch it come back (ARGS=--json)
	@$(BIN)/python -m tunnel demo $(ARGS)

test: $(VENV)/.stamp-test ## all tests but the slow ones, with their coverage; ARGS="..." for a part
	@$(BIN)/python -m pytest $(WHOLE) $(ARGS)

tox: $(VENV)/.stamp-tox ## all tests but the slow ones, on each Python that is found (ARGS="-e py312")
	@$(BIN)/python -m tox run $(ARGS)

lint: $(VENV)/.stamp-test ## ruff: its rules, and its formatting
	@$(BIN)/ruff check $(ARGS) .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted; run: ruff format ." >&2; exit 1; }

types: $(VENV)/.stamp-test ## mypy --strict, also as on Windows and macOS
	@$(BIN)/mypy --strict statemachine tunnel pytest_tunnel.py benchmarks tests/typing $(ARGS)
	@$(BIN)/mypy --strict --platform win32 --cache-dir .mypy_cache/win32 statemachine tunnel $(ARGS)
	@$(BIN)/mypy --strict --platform darwin --cache-dir .mypy_cache/darwin statemachine tunnel $(ARGS)

soak: $(VENV)/.stamp-test ## random faults for a while, all promises checked (ARGS="--seconds 600 --seed 1")
	@$(BIN)/python -m benchmarks soak $(ARGS)

measure: $(VENV)/.stamp-test ## figures and growth for docs/benchmarks.rst; wants a quiet machine
	@$(BIN)/python -m benchmarks figures --json docs/measured/figures.json
	@$(BIN)/python -m benchmarks growth --json docs/measured/growth.json --pictures docs/pictures
	@$(BIN)/python -m benchmarks page

diagrams: $(VENV)/.stamp-test ## draw diagrams/ anew from the declarations (SVG needs Graphviz's dot)
	@$(BIN)/python docs/draw_diagrams.py $(ARGS)
	@$(BIN)/python docs/draw_examples.py

requirements: $(VENV)/.stamp-test ## write docs/requirements.rst anew from the tests' marks
	@$(BIN)/python docs/list_requirements.py $(ARGS)

errors: $(VENV)/.stamp-test ## write docs/errors.rst anew from the table of error codes
	@$(BIN)/python docs/list_errors.py $(ARGS)

metrics: $(VENV)/.stamp-test ## write docs/metrics-table.inc anew from the table of metrics
	@$(BIN)/python docs/list_metrics.py $(ARGS)

faults: $(VENV)/.stamp-test ## write docs/faults.rst anew from docs/faults/ and the tests' marks
	@$(BIN)/python docs/list_faults.py $(ARGS)

generated: $(VENV)/.stamp-test ## whether all that is generated is current; writes nothing
	@for script in draw_diagrams list_requirements list_errors list_metrics list_faults; do \
		$(BIN)/python docs/$$script.py --check || exit 1; \
	done

conformance: $(VENV)/.stamp-test ## the Autobahn testsuite, which needs Python 2.7 (ARGS="--cases 6.*")
	@$(BIN)/python tests/conformance/run.py $(ARGS)

fuzz: $(VENV)/.stamp-test ## look for input that breaks a promise (ARGS="--seconds 3600 --seed 1")
	@$(BIN)/python tests/fuzz/fuzz.py $(ARGS)

docs: $(VENV)/.stamp-docs ## build the documentation into docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

build: $(VENV)/.stamp-test ## sdist, and from it the wheel, into dist/; the same bytes for the same commit
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)} \
		$(BIN)/python -m build $(ARGS)

check: lint types test docs ## everything that CI checks, but for the wheel

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info docs/_build .coverage .coverage.* coverage.xml
	rm -rf .tox .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find statemachine tunnel tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: one for each set of extras, renewed when the lists of dependencies may have changed.
$(VENV)/.stamp-demo: EXTRAS := fast,gateway,cli
$(VENV)/.stamp-test: EXTRAS := test
$(VENV)/.stamp-docs: EXTRAS := docs

$(VENV)/.stamp-tox: | $(BIN)/python
	@$(PIP_INSTALL) "tox>=4.11"
	@touch $@

$(VENV)/.stamp-%: setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing resilient-tunnel[$(EXTRAS)] into $(VENV) ..." >&2
	@$(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "'$(PYTHON)' is missing or older than Python 3.10; name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments, for it lacks the module ensurepip." >&2; \
		echo "On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; \
		echo "Or name another Python: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@echo "making the virtual environment $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
