# make demo, test, test-avx2, test-long, check, docs: the same words at the desk and in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A processor as most laptops have it. What was compiled for a larger one is kept apart from what is compiled here.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/$(VENV)/avx2
# Four processes keep two cores busy, as tests wait for what they start. A file stays in one, which makes its fixtures once; the order is that of tests/conftest.py, slow files first.
IN_FOUR := --numprocesses 4 --dist loadscope --no-loadscope-reorder
NUMERICAL := tests/model tests/properties tests/machine tests/eval tests/formats/huggingface tests/test_sample.py tests/test_draw.py tests/train/test_optim.py tests/train/test_state.py tests/train/test_loop.py

.PHONY: demo test test-avx2 test-long check docs install install-dev

demo: install
	$(BIN)/gptlab demo

test: install-dev
	$(BIN)/python -m pytest $(IN_FOUR) -m "not long"

test-avx2: install-dev
	$(AVX2) $(BIN)/python -m pytest $(IN_FOUR) -m "not slow and not long" $(NUMERICAL)

test-long: install-dev
	$(BIN)/python -m pytest -m long

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
