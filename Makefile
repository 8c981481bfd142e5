# make demo: set up, then the main job on the built-in data, offline, in about a minute
# make test: set up, then formatter, linter and tests

PYTHON ?= python3
SHARED := ../shared

# Real data and published curves, where they are at hand; without them those tests are skipped.
export RECDISTILL_REFERENCE ?= $(wildcard $(abspath $(SHARED))/reference)

.PHONY: demo test
demo: .venv/.installed
	.venv/bin/python main_no_KD.py --dataset synthetic --dim 200 --overwrite
	.venv/bin/python main_no_KD.py --dataset synthetic --dim 20 --overwrite
	@echo
	@.venv/bin/python -m experiments.results --dataset synthetic

test: .venv/.installed-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

.venv/.installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.txt
	touch $@

.venv/.installed-dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements-dev.txt
	touch $@
