# On a machine with Python >= 3.10 and make, `make demo` and `make test` do all the set-up.
#
# VENV       where the virtual environment is made
# PYTHON     what makes it
# PIP_FLAGS  added to each pip install, for example a package index of CPU builds of torch
# PYTEST     added to each pytest call, for example PYTEST="-x -k tiling"
# FUZZ       added to the fuzz call, for example FUZZ="--seed 7 --count 5000"

VENV ?= .venv
# the first that runs and is new enough: a shim on the PATH may name a Python that is not installed
PYTHON ?= $(shell for python in python3.12 python3.11 python3.10 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
PIP_FLAGS ?=
PYTEST ?=
FUZZ ?=

RUN := $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_FLAGS)

.PHONY: help demo test test-all test-core fuzz lint
.DELETE_ON_ERROR:

help:
	@echo "make demo       restore the sample photographs into results/ and print how much better they became"
	@echo "make test       the tests, at most 10 minutes"
	@echo "make test-all   the slow tests too, at most 45 minutes"
	@echo "make test-core  the tests that need no torch"
	@echo "make fuzz       1,000 broken files of a new seed to everything that reads files, about 2 minutes"
	@echo "make lint       ruff and mypy"

demo: $(VENV)/.core
	@$(RUN) tools/demo.py

test: $(VENV)/.test
	$(RUN) -m pytest $(PYTEST)

test-all: test
	$(RUN) -m pytest --slow -m slow $(PYTEST)

test-core: $(VENV)/.test-core
	$(RUN) -m pytest $(PYTEST)

fuzz: $(VENV)/.test
	$(RUN) -W ignore -m tools.fuzz $(FUZZ)

lint: $(VENV)/.test
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

# Each stamp says that an install is done; a changed dependency makes it old.
$(VENV)/.core: setup.py constraints.txt | $(RUN)
	@echo "installing bfsr-edge into $(VENV)"
	@$(INSTALL) -e .
	@$(cv2-runs)
	@touch $@

$(VENV)/.test-core: setup.py constraints.txt | $(RUN)
	@echo "installing bfsr-edge with the test-core extra into $(VENV)"
	@$(INSTALL) -e ".[test-core]"
	@$(cv2-runs)
	@touch $@

$(VENV)/.test: setup.py constraints.txt | $(RUN)
	@echo "installing bfsr-edge with the test extra into $(VENV)"
	@$(INSTALL) -e ".[test]"
	@$(cv2-runs)
	@touch $@

$(RUN):
	@test -n "$(PYTHON)" || { echo "no Python >= 3.10 found; install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# opencv-python needs libGL, which machines without a screen often lack; the headless build is the same without windows
define cv2-runs
$(RUN) -c "import cv2" >/dev/null 2>&1 || { echo "OpenCV does not load, libGL may be missing: taking its headless build"; \
	$(RUN) -m pip uninstall --quiet --yes opencv-python; $(INSTALL) --force-reinstall --no-deps opencv-python-headless; }
endef
