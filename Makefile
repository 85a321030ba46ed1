# Everything happens in .venv, made once from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# Trains on real digits, samples, evaluates; leaves pictures in runs/digits/.
demo: $(READY)
	$(BIN)/sde-diffusion train --config configs/digits.py --workdir runs/digits
	$(BIN)/sde-diffusion sample --workdir runs/digits --num 100 --out runs/digits/samples.png
	$(BIN)/sde-diffusion evaluate --workdir runs/digits

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv
