# Every target sets up .venv by itself; Python 3.11+ and make are all that is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup spec documents report test oracle mutants live browser lint bench clean

help:            ## what there is
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv, with mmuspec and mmu-model in it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv -q $(VENV) || \
	  { echo "error: $(PYTHON) cannot make virtual environments; install venv (Debian: apt-get install python3-venv)" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

spec: setup      ## bring spec/ up to date with the document
	$(BIN)/mmuspec regen

documents: setup ## fetch mmu.rst of the releases that the tests want; does nothing if they are at hand
	@for release in 6.12 6.1; do $(BIN)/mmuspec fetch $$release >/dev/null || echo "note: tests on mmu.rst of $$release will be skipped" >&2; done

report: setup    ## check spec/ against the document, run and prove conformance, write build/report/
	$(BIN)/mmuspec fetch
	$(BIN)/mmuspec check
	$(BIN)/pytest conformance -n auto --prove -q
	$(BIN)/mmuspec report

test: documents  ## all tests
	$(BIN)/pytest -n auto

oracle: setup    ## compare the processor with an emulator: make oracle CASES=1000000 SEED=1
	$(BIN)/python -m tests.oracle --cases $(or $(CASES),100000) --seed $(or $(SEED),1)

lint: setup      ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup     ## measure, and write build/bench.json
	$(BIN)/python -m benchmarks

mutants: setup   ## mutate the model, see what conformance/ notices: make mutants SAMPLE=400 SEED=1
	$(BIN)/python -m mutants --sample $(or $(SAMPLE),400) --seed $(or $(SEED),1) $(if $(JOBS),--jobs $(JOBS))

live: setup      ## record all scenarios on real kernels (needs QEMU, gcc, apt-get)
	$(BIN)/kvm-live record

browser:         ## look at the report in a real browser (needs Chromium, or root and apt-get)
	sh .ci/browser

clean:           ## remove what make made
	rm -rf build $(VENV)
