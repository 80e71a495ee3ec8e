# Every target does the set-up it needs, in a virtual environment inside the checkout, the first time it is called.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test bench lint format docs clean

demo: $(VENV)/with-examples
	$(RUN) -m funcgrad

test: $(VENV)/with-test,torch
	$(RUN) -m pytest -n auto $(ARGS)

bench: $(VENV)/with-test,torch
	$(RUN) -m benchmarks $(ARGS)

lint: $(VENV)/with-test,torch
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

format: $(VENV)/with-test,torch
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(VENV)/with-docs
	$(RUN) -m sphinx --fail-on-warning --keep-going docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build

$(RUN):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'funcgrad needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3'; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A stamp for each set of extras that is installed.
$(VENV)/with-%: pyproject.toml | $(RUN)
	@echo 'Installing funcgrad[$*] into $(VENV)'
	$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch '$@'
