# Every target makes .venv when it is missing or out of date, and reuses it otherwise.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format bench soak figures clean

demo: .venv/stamp
	$(BIN)/innerstep train configs/digits.yaml --overwrite

test: .venv/stamp
	$(BIN)/pytest

check: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/stamp
	$(BIN)/python benchmarks/report.py

soak: .venv/stamp
	$(BIN)/python benchmarks/kill_and_resume.py
	$(BIN)/python benchmarks/soak.py
	INNERSTEP_MUTATIONS=6000 $(BIN)/pytest tests/test_mutations.py

figures: .venv/stamp
	$(BIN)/python docs/draw_figures.py

clean:
	rm -rf .venv runs dist

.venv/stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
