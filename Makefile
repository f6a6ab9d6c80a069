# make venv | demo | test | lint | screenshots | zoo. Everything else is made on the way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# On all cores. The slow ones start many processes of their own and watch the clock: one after the other.
FAST := $(BIN)/pytest -q -m "not slow" -n auto --dist loadfile
# The models are ours and local: nothing may ask a hub.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: venv demo test test-fast lint screenshots zoo clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "autombw needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,bench]'
	touch $@

demo: venv
	$(BIN)/python -m examples.emoji.demo --out demo

test: venv
	$(FAST)
	$(BIN)/pytest -q -m slow

test-fast: venv
	$(FAST)

# The pictures of docs/page.md: a real job in a real browser, some minutes.
screenshots: venv
	$(BIN)/python -m examples.emoji.screenshots --out docs

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service optimizer scoring migrations examples benchmarks tests
	$(BIN)/lint-imports
	$(BIN)/pylint --disable=all --enable=duplicate-code service optimizer scoring examples benchmarks

# Draws the data set and trains the zoo again: an hour or two on two cores, minutes on a GPU.
zoo: venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[zoo]'
	cd examples/emoji && npm install --ignore-scripts
	$(BIN)/python -m examples.emoji.train_all --work zoo-work

clean:
	rm -rf demo zoo-work
