# `make train` and `make test` set everything up themselves; only Python 3.11+ and make are needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup train test lint
setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

train: .venv/ready
	$(BIN)/python launch/train.py --config=configs/onethinker.py:tiny

test: .venv/ready-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=15

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
