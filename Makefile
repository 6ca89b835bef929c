# Every target sets up what it needs in .venv; packages are reinstalled only when the requirements change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal   # a worker for each core
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Clones of a function are chosen before the sanitizer is ready.
ASAN := g++ -fsanitize=address -fno-omit-frame-pointer -DPROXMOM_NO_CLONES

KERNELS := hatch_build.py proxmom/kernels/build.py $(wildcard proxmom/kernels/*.cpp proxmom/kernels/*.h)   # compiled on installation, where it can be

# Studies that are evidence: not the tiny tiers, nor those for a GPU, nor lists of problems that other files read; the
# speed runs, at several lengths each, follow them.
STUDIES := $(filter-out %/smoke.toml %/full.toml %/kill_test.toml %/heldout.toml %/nonconvex.toml experiments/speedrun/%, $(wildcard experiments/*/*.toml))

.PHONY: run studies test quick test-slow mutants theory asan verify bench conformance lint docs pictures clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(VENV)/.study  ## run the quick convex study on embedded data and write its report
	$(BIN)/proxmom run experiments/convex/quick.toml

studies: $(VENV)/.dev  ## run all studies of experiments/ again (a night on two cores; goes on where it was stopped)
	$(PIP) --editable '.[field]'
	for study in $(STUDIES); do $(BIN)/proxmom run $$study || exit 1; done
	for steps in 500 650 850; do $(BIN)/proxmom run experiments/speedrun/small.toml --steps $$steps || exit 1; done
	for steps in 270 350 455; do $(BIN)/proxmom run experiments/speedrun/million.toml --steps $$steps || exit 1; done
	$(BIN)/python experiments/full_batch/compare.py --out results/full-batch
	$(BIN)/python experiments/tuning_free/compare.py
	$(BIN)/python experiments/unbiased/unbiased.py
	$(BIN)/python experiments/unbiased/tried.py

test: $(VENV)/.dev  ## all tests but the slow ones
	$(TESTS)

quick: lint  ## style, types and the tests of the core (a minute)
	$(TESTS) tests/core

test-slow: $(VENV)/.dev  ## the tests marked slow
	$(TESTS) -m slow

theory: $(VENV)/.dev  ## run every derivation and check its claims
	$(BIN)/python theory/claims.py

asan: $(VENV)/.dev  ## the kernels under AddressSanitizer: 200 random sequences (a minute), then build them again
	CXX="$(ASAN)" $(BIN)/python -c "import pathlib; from proxmom.kernels import build; build.build(pathlib.Path(build.__file__).parent)"
	CXX="$(ASAN)" LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PROXMOM_FUZZ=200 $(BIN)/python -m pytest -k 'fastest or native_signs or vectors or tape or places' \
	tests/torch/test_fuzz.py tests/torch/test_safety.py tests/torch/test_native_signs.py tests/torch/test_vectors.py \
	tests/core/test_tape.py tests/torch/test_places.py; status=$$?; $(BIN)/python -m proxmom.kernels; exit $$status

mutants: $(VENV)/.dev  ## 150 single changes of the core: does a test notice each? (an hour; goes on where it was stopped)
	$(BIN)/python -m tests.mutants --jobs 2

verify: $(VENV)/.dev  ## every rule against the convex solver, 500 states a setting (twenty minutes)
	$(BIN)/proxmom verify --trials 500 --jobs 2

bench: $(VENV)/.dev  ## time the solver and a step, beside torch's own optimizers (minutes)
	$(BIN)/proxmom bench

conformance: $(VENV)/.dev  ## our optimizers and torch's own in the conformance suite
	$(BIN)/proxmom conformance AMSGD AMAdamW MoMo MoMoAdam TruncatedMemorySGD --torch

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

clean:  ## remove the environment and all results
	rm -rf $(VENV) results docs/_build docs/gallery docs/tutorials/executed proxmom/kernels/passes.so proxmom/kernels/passes.json

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.study: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	$(PIP) --editable '.[study]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	$(PIP) 'torch' --editable '.[study,verify,dev]'
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) 'torch' --editable '.[study,verify,docs]'
	@touch $@

pictures: $(VENV)/.study  ## make the README's picture again
	$(BIN)/proxmom draw AdaptiveMemory --on model --out docs/pictures/model.png
