# Each target installs what it needs into .venv when that is missing or out of date, and reuses it otherwise.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL = $(PIP_INSTALL) --editable
# One process for each core, each with one thread. Tests that need two threads set them.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

.PHONY: demo test test-slow test-versions check format docs bench soak figures config-fields clean

# One thread: the matrices are too small for more.
demo: export OMP_NUM_THREADS = 1
demo: .venv/demo.stamp
	$(BIN)/innerstep train configs/button_press.yaml --overwrite
	$(BIN)/innerstep evaluate runs/button_press --checkpoint best --train.evaluation.seed=200000

test: .venv/test.stamp
	$(PYTEST) -m 'not slow'

test-slow: .venv/test.stamp
	$(PYTEST) -m slow

test-versions:
	$(PYTHON) tests/versions.py

check: .venv/check.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/check.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A dead link or anchor, a page outside the navigation and a docstring that contradicts its signature are errors.
docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Some 20 minutes. The results are kept in runs/benchmarks, so sections.py can also be run alone, for what is missing.
bench: export CUDA_VISIBLE_DEVICES =
bench: .venv/bench.stamp
	rm -rf runs/benchmarks
	$(BIN)/python benchmarks/sections.py runs/benchmarks
	$(BIN)/python benchmarks/report.py runs/benchmarks
	$(BIN)/python benchmarks/policy_step.py
	$(BIN)/python benchmarks/averages.py
	$(BIN)/python benchmarks/robot_data.py
	$(BIN)/torchrun --standalone --nproc-per-node 2 benchmarks/processes.py

soak: .venv/test.stamp
	$(BIN)/python benchmarks/kill_and_resume.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/sanitizers.py
	INNERSTEP_MUTATIONS=6000 $(BIN)/pytest tests/reliability/test_mutations.py
	INNERSTEP_CONFIG_MUTATIONS=10000 $(BIN)/pytest tests/reliability/test_config_mutations.py

figures: .venv/demo.stamp
	$(BIN)/python docs/draw_figures.py

config-fields: .venv/test.stamp
	$(BIN)/python docs/write_config_fields.py

clean:
	rm -rf .venv runs dist site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[plot,robot,sim]'
	touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[test]'
	touch $@

# timm without what it requires: its optimizers need no torchvision.
.venv/bench.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[test,bench]'
	$(PIP_INSTALL) --no-deps timm
	touch $@

.venv/check.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[check]'
	touch $@

# The requirements alone: the API pages are made from the sources as text, so neither innerstep nor torch is needed.
DOCS_EXTRA = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")

.venv/docs.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -c '$(DOCS_EXTRA)' > .venv/docs.txt
	$(PIP_INSTALL) --requirement .venv/docs.txt
	touch $@
