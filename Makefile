PYTHON ?= python3
BIN := .venv/bin

.PHONY: long setup demo test check docs bench reference

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/suture run scenarios/heart.toml --out results
	@cp results/heart/figures/privacy_accuracy.png docs/privacy_accuracy.png

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

long: setup
	$(BIN)/python -m pytest -m long

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: setup
	$(BIN)/python -m benchmarks.reference

bench: setup
	$(BIN)/python -m benchmarks.rounds
