# Every command, one line each: make help
VENV := .venv
BASE_PYTHON ?= python3
ifeq ($(origin PYTHON), undefined)
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
else
READY := existing-environment
endif
TEX_PACKAGES := latexmk texlive-latex-recommended texlive-fonts-recommended texlive-latex-extra poppler-utils
NO_TEX := LaTeX is missing, so no PDF is made: install $(TEX_PACKAGES) (Debian, Ubuntu) or any TeX with latexmk
IS_ROOT_DEBIAN := [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null

.DEFAULT_GOAL := all
.PHONY: all quick beyond test test-slow test-oldest lint report publish bench bench-seeds submission help clean setup \
  existing-environment latex

all: $(READY) ## train the standard runs, evaluate them, compile your report; resumable
	@$(MAKE) -s latex || true
	@$(PYTHON) code/standard_runs.py
	@$(MAKE) -s latex || true

quick: $(READY) ## the whole chain on small settings, under 4 minutes
	@$(PYTHON) code/standard_runs.py --quick

beyond: $(READY) ## train and judge the models that the assignment does not ask for; resumable
	@$(MAKE) -s latex || true
	@$(PYTHON) code/standard_runs.py --beyond

test: $(READY) lint ## the tests, 5 to 6 minutes
	@$(PYTHON) tests/run.py

test-slow: $(READY) ## the tests that take long
	@$(PYTHON) -m pytest -m slow

# torch 2.4, the oldest allowed, needs Python 3.12 or older: make test-oldest BASE_PYTHON=python3.12
test-oldest: ## the fast tests on the oldest versions that requirements.txt allows
	@test -x .venv-oldest/bin/python || $(BASE_PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install -q --disable-pip-version-check $$(sed 's/>=\(.*\)/==\1.*/' requirements.txt) \
	  pytest hypothesis
	@.venv-oldest/bin/python -m pytest -m "not slow"

lint: $(READY)
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check -q .

report: $(READY) ## compile report/report.pdf from the published results, no training
	@$(MAKE) -s latex
	@$(PYTHON) report/macros.py
	@cd report && TEXINPUTS=build: latexmk -pdf -interaction=nonstopmode -halt-on-error -quiet -outdir=build report.tex \
	  >build/make.log 2>&1 || { grep -A 3 '^!' build/report.log; exit 1; }
	@cp report/build/report.pdf report/report.pdf && echo "report/report.pdf"

publish: $(READY) ## copy finished runs on real data from runs/ to report/
	@$(PYTHON) report/publish.py

bench: $(READY) ## speed and cost beside the plain loop, under 4 minutes
	@$(PYTHON) code/bench.py

bench-seeds: $(READY) ## three seeds of every standard run, on real data: hours, resumable
	@$(PYTHON) code/seeds.py

submission: $(READY) ## the ZIP to hand in: make submission NAME=lastname
	@$(PYTHON) report/submission.py "$(NAME)" $(if $(FORCE),--force)

clean: ## delete the environment and the caches, keep data and runs
	rm -rf $(VENV) .venv-oldest .pytest_cache .ruff_cache .hypothesis report/build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(READY)

# A virtual environment with what requirements-dev.txt names; done once, and again when those files change.
$(VENV)/ready: requirements.txt requirements-dev.txt
	@command -v $(BASE_PYTHON) >/dev/null || { echo "Python is missing: install Python 3.10 or newer"; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make BASE_PYTHON=python3.12, for one"; exit 1; }
	@$(BASE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(IS_ROOT_DEBIAN) && \
	  echo "Installing python3-venv" && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } || \
	  { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV)/ (torch is large: minutes, and 6 GB)"
	@$(BASE_PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt || \
	  { echo "pip could not install requirements-dev.txt: see the lines above; is there a network?"; exit 1; }
	@$(VENV)/bin/python -c 'import torch, torchvision' 2>/dev/null || \
	  { echo "torch and torchvision do not match: $(VENV)/bin/python -m pip install --upgrade torch torchvision"; exit 1; }
	@touch $@

existing-environment:
	@$(PYTHON) -c 'import torch, torchvision, numpy, scipy, matplotlib, tqdm' || \
	  { echo "$(PYTHON) lacks packages: $(PYTHON) -m pip install -r requirements-dev.txt"; exit 1; }

latex:
	@command -v latexmk >/dev/null || { $(IS_ROOT_DEBIAN) && echo "Installing $(TEX_PACKAGES)" && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends $(TEX_PACKAGES) >/dev/null 2>&1; } || { echo "$(NO_TEX)"; exit 1; }
