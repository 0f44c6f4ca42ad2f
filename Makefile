PYTHON ?= python3
ARGS ?=
SECONDS ?= 120
SEED ?= 1
PY := .venv/bin/python
QUICK := $(addprefix tests/integration/test_, purge.py judgement.py lost_replies.py) \
	tests/acceptance/test_reap_between_two_looks.py::test_a_run_that_waits_removes_the_members_of_a_killed_process_and_of_no_other \
	tests/acceptance/test_drop_in_leaves_no_orphans.py::test_one_run_removes_the_members_of_a_killed_process

.PHONY: demo test test-quick test-oldest matrix lint bench chaos fuzz docs

demo: .venv/.installed  ## the product in under a minute; ARGS=--keep leaves it running
	$(PY) manage.py demo $(ARGS)

# Otherwise each of the processes that tests start, some hundreds, compiles the same modules again.
test test-quick: export PYTHONDONTWRITEBYTECODE =

test: .venv/.installed  ## four tests at a time on two cores: most of them wait
	$(PY) -m pytest -n 4 --dist loadgroup --no-loadscope-reorder $(ARGS)

test-quick: .venv/.installed  ## the unit tests, and one of each promise on real servers: under a minute
	$(PY) -m pytest -n 3 --dist loadgroup --no-loadscope-reorder tests/unit $(QUICK) $(ARGS)

test-oldest: .venv-oldest/.installed  ## the core and the drop-in layer on the oldest versions that they say they work with
	.venv-oldest/bin/python -m pytest tests/unit tests/integration/test_purge.py tests/integration/test_drop_in_is_a_drop_in.py tests/integration/test_drop_in_keeps_members.py tests/integration/test_watched_connections.py -k "not stock" $(ARGS)

matrix: .venv/.installed  ## the drop-in layer on redis-py 5 to 8 with channels_redis 4.2 and 4.3, a quarter of an hour
	$(PY) -m nox $(ARGS)

lint: .venv/.installed
	$(PY) -m ruff check && $(PY) -m ruff format --check && $(PY) -m mypy

bench: .venv/.installed
	$(PY) -m benchmarks $(ARGS)

chaos: .venv/.installed  ## faults against real servers, and whether the promise holds: SECONDS=3600 SEED=7
	$(PY) -m chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

fuzz: .venv-fuzz/.installed  ## bytes that atheris makes up, for every parser: SECONDS=300
	.venv-fuzz/bin/python -m tests.fuzz_parsers -max_total_time=$(SECONDS) $(ARGS)

docs: .venv/.installed
	$(PY) docs/generate.py

.venv/.installed: requirements-dev.txt
.venv-oldest/.installed: requirements-oldest.txt
.venv-fuzz/.installed: requirements-fuzz.txt
%/.installed:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
