# make demo: set up, then a teacher, a student, and the student taught by DE-RRD and by S2D, on the
#            built-in data, offline, in about two minutes
# make cluster: set up, then a scheduler and two workers on this machine, which run a small plan on
#            the built-in data, in a folder that is gone afterwards: a minute
# make test: set up, then formatter, linter and tests

PYTHON ?= python3

# The notebook lays published curves beside ours where they are at hand.
export RECDISTILL_REFERENCE ?= $(wildcard $(abspath ../shared/reference))

.PHONY: demo cluster test
demo: .venv/requirements.installed
	.venv/bin/python -m experiments.demo

cluster: .venv/requirements-dev.installed
	.venv/bin/python -m experiments.cluster

test: .venv/requirements-dev.installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal

.venv/requirements-dev.installed: requirements.txt
.venv/%.installed: %.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement $<
	touch $@
