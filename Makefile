PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python

.PHONY: demo test lint bench docs

demo: .venv/.installed  ## the product in about a minute; ARGS=--keep leaves it running
	$(PY) manage.py demo $(ARGS)

test: .venv/.installed
	$(PY) -m pytest $(ARGS)

lint: .venv/.installed
	$(PY) -m ruff check && $(PY) -m ruff format --check && $(PY) -m mypy

bench: .venv/.installed
	$(PY) -m benchmarks $(ARGS)

docs: .venv/.installed
	$(PY) docs/generate.py

.venv/.installed: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
