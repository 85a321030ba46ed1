# Everything happens in .venv, made once from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# JAX in .venv computes on CPUs. The TPU compiler that is installed beside it, for the tests of
# planning, would otherwise look for a TPU and warn that there is none.
export JAX_PLATFORMS ?= cpu

.PHONY: demo emoji test quick check docs clean

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

# Text-to-image from nothing, on OpenMoji's named drawings. Leaves in runs/emoji/ a page of prompts and
# pictures, and what they are worth. The same command goes on where it was stopped.
EMOJI := runs/emoji
emoji: $(READY)
	$(BIN)/sde-diffusion train --config configs/emoji.py --workdir $(EMOJI)
	$(BIN)/sde-diffusion sample --workdir $(EMOJI) --prompts experiments/emoji/prompts.txt --num 8 \
	  --out $(EMOJI)/prompts.png
	$(BIN)/sde-diffusion evaluate --workdir $(EMOJI)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# At most two minutes on two idle cores, for work in progress: the fast tests of what compiles little.
# `make test` runs them all.
QUICK := $(wildcard tests/test_*.py) $(addprefix tests/,analytic config data docs/test_pages.py metrics \
  planning pretrained distributed/test_mesh.py cli/test_bad_input.py experiments/test_pods.py)
quick: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m 'not slow' $(QUICK)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages and the API reference, in docs/_build. Warnings, such as links that lead nowhere, are errors.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs . docs/_build
	@echo docs/_build/docs/index.html

clean:
	rm -rf .venv
