# make demo, test, check, docs: the same words at the desk and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs install install-dev

demo: install
	$(BIN)/gptlab demo

test: install-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope -m "not long"

check: install-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow and not long"

docs: install
	$(BIN)/python docs/generate.py

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# constraints.txt pins the versions that were tested, among them a torch that runs on a CPU.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[hf,fast]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(VENV)/.installed $@
