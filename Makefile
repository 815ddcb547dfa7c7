# The only door. `make` prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= $(or $(ANGIOLOOP_HOME),workspace)
CONF ?= conf
ROUND ?=
CPU ?=
RUN := ANGIOLOOP_HOME=$(HOME_DIR)

.PHONY: help setup demo demo-arcade test check format train distil export bench up down deploy pin-images calibrate weights tiny-base report docs clean

help: ## Print this help
	@echo "angioloop: expert corrections in CVAT into better medical segmentation models"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  HOME_DIR=DIR is the workspace (default \$$ANGIOLOOP_HOME, else ./workspace), CONF=DIR the configuration (default ./conf)."

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("angioloop needs Python 3.11 or 3.12, found %d.%d; set PYTHON=python3.11" % sys.version_info[:2]) if not (3,11) <= sys.version_info[:2] < (3,13) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "pip>=24" "setuptools>=77"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed ## Create .venv and install everything, from constraints.txt

demo: setup ## The whole loop on phantoms: 3 rounds, student, measurements (10 minutes on 2 cores)
	$(BIN)/python -m demo.walk --home workspace/demo

demo-arcade: setup ## The same walk on real angiograms: make demo-arcade ARCADE=DIR
	$(BIN)/python -m demo.walk --home workspace/arcade --arcade "$(or $(ARCADE),$(error give the folder: make demo-arcade ARCADE=DIR))"

test: setup ## Run the tests
	$(BIN)/python -m pytest -q

check: setup ## Format, lint, types, floors (static only)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: setup ## Train, evaluate, decide, promote, report: make train ROUND=3
	$(RUN) $(BIN)/trainer train --round $(or $(ROUND),$(error give the round: make train ROUND=3)) --conf $(CONF)

distil: setup ## Distil the promoted teacher to the ONNX student and release it if it passes the gates
	$(RUN) $(BIN)/trainer distil --conf $(CONF)

export: setup ## Check the released bundle against torch and against the teacher
	$(RUN) $(BIN)/python -m export check

report: setup ## Write the report over all rounds
	$(RUN) $(BIN)/trainer report

bench: setup ## Run every bench and keep bench/results/NAME.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench

weights: setup ## Fetch the real SAM 3 weights (gated hub; asks for access when refused)
	$(RUN) $(BIN)/python -m segmenter.weights

tiny-base: setup ## Pre-train the shipped tiny base on generic shapes again (hours)
	$(BIN)/python -m segmenter.tiny_base --out conf/tiny-base

docs: setup ## Generate docs/cli.md from the commands' help
	$(BIN)/python -m docs.cli

up: ## Start queue, worker, dashboards beside CVAT's compose (CVAT_DIR; SHARED=1 a shared model, WATCH=1)
	@SHARED="$(SHARED)" WATCH="$(WATCH)" bash docker/compose.sh up -d

down: ## Stop what `make up` started
	@SHARED=1 WATCH=1 bash docker/compose.sh down

deploy: ## Deploy the Nuclio functions with nuctl (CPU=1 the student; MODEL=nnunet; SHARED=URL over a shared model)
	@CPU="$(CPU)" SHARED="$(SHARED)" TRACKS="$(TRACKS)" WORKERS="$(WORKERS)" MODEL="$(MODEL)" bash docker/deploy.sh

pin-images: ## Write the digests of the published images beside their tags
	@bash docker/pin-images.sh

calibrate: setup ## Measure what the served model's scores are worth (ANGIOLOOP_MODEL=student the student's)
	$(RUN) ANGIOLOOP_CONF=$(CONF) $(BIN)/python -m serverless.calibrate

clean: ## Remove .venv and caches; workspaces stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
