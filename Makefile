# make demo: set up, then a teacher, a student, and a student taught by DE-RRD, on the built-in data,
#            offline, in two minutes or less (5 experts in place of 30, a larger learning rate)
# make test: set up, then formatter, linter and tests

PYTHON ?= python3

# The notebook lays published curves beside ours where they are at hand.
export RECDISTILL_REFERENCE ?= $(wildcard $(abspath ../shared/reference))

DEMO = --dataset synthetic --lr 0.002 --threads 1 --overwrite

.PHONY: demo test
demo: .venv/requirements.installed
	.venv/bin/python main_no_KD.py $(DEMO) --dim 200
	.venv/bin/python main_no_KD.py $(DEMO) --dim 20
	.venv/bin/python main_DERRD.py $(DEMO) --dim 20 --num_experts 5 --P 100
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
