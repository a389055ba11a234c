# Everything from a fresh machine with Python 3.11 and nothing else.
#   make demo          real data, the whole stack, asserts its own claims (BACKEND=tensorflow|jax|torch)
#   make test          the whole suite; make check: format, lint, types, import layers
#   make quick         what needs no fit, in a minute; make house: the figures of the house (AGAINST=commit)
#   make bench         ratios against Keras; make crash: the exhaustive kill runs
PYTHON  ?= $(shell command -v python3.11 || command -v python3)
BACKEND ?= tensorflow
BIN     := .venv/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements/pins.txt
PYTEST  := $(BIN)/python -m pytest
SETUP   := pyproject.toml requirements/pins.txt
# TensorFlow's chatter hides our lines; its warnings and errors stay.
export TF_CPP_MIN_LOG_LEVEL ?= 1

framework-tensorflow := tensorflow-cpu
framework-jax        := jax
framework-torch      := torch

.PHONY: demo test quick house check bench crash format clean test-core test-browser test-crash test-tensorflow test-jax test-torch \
        test-keras2 test-tensorflow-fits test-tensorflow-programs test-workers

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo-$(BACKEND): $(SETUP) | .venv/bin/python
	$(PIP) --editable '.[demo]' $(framework-$(BACKEND))
	@touch $@

.venv/.test: $(SETUP) | .venv/bin/python
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps tf-keras  # it asks for `tensorflow` by name, which `tensorflow-cpu` is
	@touch $@

.venv/.check: $(SETUP) | .venv/bin/python
	$(PIP) --editable '.[check]'
	@touch $@

demo: .venv/.demo-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(BIN)/python -m peakhold.demo

check: .venv/.test .venv/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Frameworks never share a process: each backend is a run of its own, one thread each (small models gain
# nothing from more), the longest first; TensorFlow's would be a third of it all, so it is two. Three at a
# time on two cores: a fifth of it all is waiting, for disks and for processes that end.
# `make test-jax` and its like run one group alone.
JOBS ?= 3
GROUPS := test-torch test-tensorflow-fits test-core test-jax test-tensorflow-programs test-workers test-keras2 test-crash test-browser
test: .venv/.test
	$(MAKE) --jobs=$(JOBS) --keep-going --output-sync=target $(GROUPS)
$(GROUPS): export OMP_NUM_THREADS = 1
$(GROUPS): export TF_NUM_INTRAOP_THREADS = 1
$(GROUPS): export TF_NUM_INTEROP_THREADS = 1

QUICK := tests/core tests/runtime tests/callbacks tests/checkpoint_files tests/loops
quick: export OMP_NUM_THREADS = 1
quick: .venv/.test
	$(PYTEST) --quiet $(QUICK) tests/house/test_purity.py

test-core: .venv/.test
	$(PYTEST) $(QUICK) tests/run tests/sinks tests/ledger tests/alerts tests/house tests/store tests/doctor tests/event_files

house: .venv/.test
	$(BIN)/python -m tools.house $(if $(AGAINST),--against $(AGAINST))

test-torch test-jax: test-%: .venv/.test
	KERAS_BACKEND=$* $(PYTEST) tests/keras tests/programs tests/conformance tests/exact

test-tensorflow: test-tensorflow-fits test-tensorflow-programs
# TensorFlow keeps what it has traced: in fewer processes one of these would take more than 3 GB.
PARTS := a-f g-hj-q i r-z
test-tensorflow-fits: .venv/.test
	failed=0; for part in $(PARTS); do \
	  KERAS_BACKEND=tensorflow $(PYTEST) tests/keras/test_[$$part]*.py || failed=1; \
	done; exit $$failed
test-tensorflow-programs: .venv/.test
	KERAS_BACKEND=tensorflow $(PYTEST) tests/programs tests/conformance tests/exact

# Keras 2 beside Keras 3, which TensorFlow brings along.
test-keras2: .venv/.test
	KERAS_BACKEND=tensorflow $(PYTEST) tests/keras2

# Skipped, with what to install, where no browser is and none can be had without asking.
test-browser: .venv/.test
	tests/browser/get_chromium.sh
	KERAS_BACKEND=torch $(PYTEST) tests/browser

# Workers are processes, or threads, of their own, on loopback.
test-workers: .venv/.test
	KERAS_BACKEND=torch $(PYTEST) tests/workers

test-crash: .venv/.test
	KERAS_BACKEND=torch $(PYTEST) tests/crash tests/deploy

# Most kills need no framework but the one that forks; a resume is as exact as its framework, and so is
# a copy of what it trains.
RESUMED := tests/crash/test_resume_kills.py tests/crash/test_production_kills.py tests/keras tests/exact
crash: .venv/.test
	KERAS_BACKEND=torch $(PYTEST) tests/crash tests/deploy tests/store tests/keras tests/workers tests/exact -m exhaustive -s
	KERAS_BACKEND=tensorflow $(PYTEST) $(RESUMED) -m exhaustive -s
	KERAS_BACKEND=jax $(PYTEST) $(RESUMED) -m exhaustive -s

.venv/.bench: $(SETUP) | .venv/bin/python
	$(PIP) --editable '.[bench]'
	@touch $@

bench: .venv/.test .venv/.bench
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
