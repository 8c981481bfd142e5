# make demo: set up, then teacher, student and DE-RRD student on the built-in data, offline, in
#            two minutes or so (5 experts and a faster clock in place of the paper's 30 and 1000)
# make test: set up, then formatter, linter and tests

PYTHON ?= python3

# The notebook lays published curves beside ours where they are at hand.
export RECDISTILL_REFERENCE ?= $(wildcard $(abspath ../shared/reference))

.PHONY: demo test
demo: .venv/requirements.installed
	.venv/bin/python main_no_KD.py --dataset synthetic --dim 200 --overwrite
	.venv/bin/python main_no_KD.py --dataset synthetic --dim 20 --overwrite
	.venv/bin/python main_DERRD.py --dataset synthetic --dim 20 --num_experts 5 --P 300 --overwrite
	@echo
	@.venv/bin/python -m experiments.results --dataset synthetic

test: .venv/requirements-dev.installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

.venv/requirements-dev.installed: requirements.txt
.venv/%.installed: %.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement $<
	touch $@
