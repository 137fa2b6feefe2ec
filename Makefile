# Everything runs in .venv, which is made on first use by Python's own venv and pip.
#
#     make demo                       the digits experiment in small
#     make test PYTEST="-k merge"     some of the tests
#     PYTHON=python3.12 make check    with another Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# More arguments for pytest, for the demo, and for the benchmarks (of merging in memory, of coupling,
# and of merging files).
PYTEST ?=
DEMO ?=
BENCH ?=
BENCH_COUPLING ?=
BENCH_SPEED ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean
# Two goals at once must not install into the same environment at once.
.NOTPARALLEL:

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-digits  ## train, combine and compare small digit networks; runs/demo/report.html shows it
	$(BIN)/conjoin digits --preset quick --continuum -o runs/demo $(DEMO)

# One process for each core, of one thread each; a file of tests stays together, since its fixtures
# may take long.
test: $(VENV)/.installed-dev  ## run all tests, and the examples of docstrings and docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile $(PYTEST)

check: $(VENV)/.installed-dev  ## check format, style, types, layers of imports and exported names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_exported_names.py

bench: $(VENV)/.installed-digits  ## run the benchmarks (in small: see benchmarks/README.md)
	$(BIN)/python benchmarks/merge_in_memory.py $(BENCH)
	$(BIN)/python benchmarks/coupling_overhead.py $(BENCH_COUPLING)
	$(BIN)/python benchmarks/merge_speed.py $(BENCH_SPEED)

clean:  ## remove .venv and all caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamps say what is installed, so that it is done once, and again when the versions change.
# (--use-pep517: some fonts have no wheels, and Debian's pip builds those in a deprecated way else.)
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' || { \
	  echo "conjoin needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) lacks its venv module (on Debian and Ubuntu: apt-get install python3-venv)." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed-digits: EXTRA := digits
$(VENV)/.installed-digits: SIZE := 1.4 GB
$(VENV)/.installed-dev: EXTRA := dev
$(VENV)/.installed-dev: SIZE := 1.8 GB
$(VENV)/.installed-digits $(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt \
		hatch_build.py $(wildcard src/conjoin/compiled/*.[ch])
	@echo "Installing conjoin[$(EXTRA)] and what it needs into $(VENV) (once; about $(SIZE) on disk with torch for CPUs) ..."
	@$(BIN)/pip install -q --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[$(EXTRA)]'
	@touch $@
