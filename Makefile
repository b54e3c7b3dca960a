# `make` lists the targets. A fresh machine needs Python 3.11 or newer, make and git; nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Further options of pip, for example on Linux, where the plain torch wheel brings gigabytes of CUDA with it:
#   make test PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_OPTIONS ?=
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt $(PIP_OPTIONS)
WORKERS ?= 2
DEMO ?= demo-output/demo.mp4

.DEFAULT_GOAL := help
.PHONY: help demo test check format-check lint types imports fmt bench weights clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.lean  ## Set up the lean environment (no torch), lip-sync a portrait, say where the result is
	$(BIN)/lipsmith demo --force --output $(DEMO)

test: $(VENV)/.dev  ## Set up what the tests need, and run them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: format-check lint types imports test  ## Formatting, lint, types, import contracts, tests

format-check: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

fmt: $(VENV)/.dev  ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCH := $(BIN)/python benchmarks
bench: $(VENV)/.dev  ## Measure start-up, the pipeline against a pure transcode, the face stage, live use (minutes)
	@mkdir -p $(RUNS)/bench
	$(BENCH)/startup.py --json $(RUNS)/bench/startup.json
	$(BENCH)/pipeline.py --json $(RUNS)/bench/pipeline.json --plot $(RUNS)/bench/stages.png
	$(BENCH)/faces.py --json $(RUNS)/bench/faces.json
	$(BENCH)/live.py --json $(RUNS)/bench/live.json

# The stages in their order; each goes on where it was cut off.
RUNS ?= runs
TRAIN := $(BIN)/lipsmith train --data $(RUNS)/prepared --resume
weights: $(VENV)/.dev  ## Train the default weights again: make weights CLIPS=FOLDER (hours; manifest.tsv in it)
	@test -n "$(CLIPS)" || { echo "Where is the footage? Say: make weights CLIPS=FOLDER" >&2; exit 2; }
	$(BIN)/lipsmith prepare $(CLIPS) --manifest $(CLIPS)/manifest.tsv --output $(RUNS)/prepared
	$(TRAIN) recipes/expert.yaml --output $(RUNS)/expert
	$(TRAIN) recipes/reconstruction.yaml --output $(RUNS)/reconstruction
	$(BIN)/lipsmith offsets $(RUNS)/prepared --expert $(RUNS)/expert
	$(TRAIN) recipes/judge.yaml --output $(RUNS)/judge
	$(TRAIN) recipes/generator.yaml --expert $(RUNS)/expert --initial $(RUNS)/reconstruction --output $(RUNS)/generator
	$(TRAIN) recipes/refinement.yaml --expert $(RUNS)/expert --initial $(RUNS)/generator --output $(RUNS)/refinement
	$(TRAIN) recipes/relighting.yaml --expert $(RUNS)/expert --initial $(RUNS)/refinement --output $(RUNS)/relighting
	$(TRAIN) recipes/amplification.yaml --expert $(RUNS)/expert --initial $(RUNS)/relighting --output $(RUNS)/amplification
	$(TRAIN) recipes/pairing.yaml --expert $(RUNS)/expert --initial $(RUNS)/amplification --output $(RUNS)/pairing
	$(BIN)/lipsmith export $(RUNS)/pairing --precision fp16 --data $(RUNS)/prepared --output $(RUNS)/weights/default
	$(BIN)/lipsmith export $(RUNS)/expert --data $(RUNS)/prepared --precision fp16 --output $(RUNS)/weights/expert
	$(BIN)/lipsmith export $(RUNS)/judge --data $(RUNS)/prepared --precision fp16 --output $(RUNS)/weights/judge
	$(BIN)/python -m lipsmith.evaluation $(RUNS)/weights/default --judge $(RUNS)/judge --data $(RUNS)/prepared \
		--recipe recipes/relighting.yaml --strips $(RUNS)/strips --json $(RUNS)/scores.json

clean:  ## Remove the environment and the demo's result
	rm -rf $(VENV) demo-output

# Stamps: nothing is installed again unless the versions or the package's own metadata changed.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lipsmith needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lean: $(VENV)/.created constraints.txt pyproject.toml
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.lean
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@
