# make demo: set up, then a teacher, a student, and the student taught by DE-RRD and by S2D, on the
#            built-in data, offline, in two minutes or less
# make test: set up, then formatter, linter and tests

PYTHON ?= python3

# The notebook lays published curves beside ours where they are at hand.
export RECDISTILL_REFERENCE ?= $(wildcard $(abspath ../shared/reference))

.PHONY: demo test
demo: .venv/requirements.installed
	.venv/bin/python -m experiments.demo

test: .venv/requirements-dev.installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal

.venv/requirements-dev.installed: requirements.txt
.venv/%.installed: %.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement $<
	touch $@
