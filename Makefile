# make help prints all commands.
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
# both wait for another package installation to finish, up to two minutes
APT_UPDATE := for i in $$(seq 24); do apt-get update -qq 2>/dev/null && break; sleep 5; done
APT_INSTALL := apt-get install -y -qq -o DPkg::Lock::Timeout=120
IS_ROOT_DEBIAN := [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null

PROSE := README.md CONTRIBUTING.md Makefile docs code datasets report/answers report/report.tex report/macros.py tests

.DEFAULT_GOAL := all
.PHONY: all quick beyond long test test-slow test-mutants test-oldest lint report publish bench race seeds submission help clean \
  page setup existing-environment latex chromium

##@ Train and evaluate
all: $(READY) ## train, analyse and compare the core runs, compile your report; resumable
	@$(MAKE) -s latex || true
	@$(PYTHON) code/study/train.py --group core
	@$(PYTHON) code/study/evaluate.py
	@$(PYTHON) code/study/page.py --user
	@$(PYTHON) report/macros.py --user

quick: $(READY) ## the same with small settings, 2 to 5 minutes
	@$(PYTHON) code/study/train.py --group core --quick
	@$(PYTHON) code/study/evaluate.py --quick
	@$(PYTHON) code/study/page.py --user --quick
	@$(PYTHON) report/macros.py --user --quick

beyond: $(READY) ## train the models beyond the assignment, compare five of them; hours, resumable
	@$(MAKE) -s latex || true
	@$(PYTHON) code/study/train.py --group autoregressive family plane
	@$(PYTHON) code/study/evaluate.py
	@$(PYTHON) code/study/page.py --user
	@$(PYTHON) report/macros.py --user

long: $(READY) ## train the longer runs; hours, resumable
	@$(PYTHON) code/study/train.py --group long

bench: $(READY) ## compare our training speed with plain loops, under 4 minutes
	@$(PYTHON) code/study/bench.py

race: $(READY) ## train ours and plain loops for the same seconds, compare; an hour, resumable
	@$(PYTHON) code/study/race.py

report: $(READY) ## compile report/report.pdf from the published results, without training
	@$(MAKE) -s latex
	@$(PYTHON) report/macros.py
	@cd report && max_print_line=1000 TEXINPUTS=build: latexmk -pdf -interaction=nonstopmode -halt-on-error -quiet -outdir=build report.tex \
	  >build/make.log 2>&1 || { grep '^Missing, ' build/report.log | sort -u; grep -A 3 '^!' build/report.log; exit 1; }
	@grep '^Left out, ' report/build/report.log | sort -u; cp report/build/report.pdf report/report.pdf && echo "report/report.pdf"

submission: $(READY) ## make the ZIP to hand in: make submission NAME=lastname
	@$(PYTHON) code/study/submission.py "$(NAME)" $(if $(FORCE),--force)

##@ Develop
help: ## print this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create the environment: PyTorch and the tools for tests

latex: ## install LaTeX for the report (root on Debian or Ubuntu)
	@command -v latexmk >/dev/null || { $(IS_ROOT_DEBIAN) && echo "Installing $(TEX_PACKAGES)" && { $(APT_UPDATE); } && \
	  $(APT_INSTALL) --no-install-recommends $(TEX_PACKAGES) >/dev/null 2>&1; } || { echo "$(NO_TEX)"; exit 1; }

chromium: ## install Chromium for the tests of the page (root on Debian or Ubuntu)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { $(IS_ROOT_DEBIAN) && echo "Installing chromium" && \
	  { $(APT_UPDATE); } && $(APT_INSTALL) --no-install-recommends chromium >/dev/null 2>&1; } || \
	  { echo "Chromium is missing, so the tests of the page are skipped"; exit 1; }

test: $(READY) lint ## lint and fast tests, 2.5 to 4 minutes
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## the slow tests
	@$(PYTHON) -m pytest -m slow

test-mutants: $(READY) ## whether the tests notice deliberate faults; takes long
	@$(PYTHON) tests/mutants.py $(NAMES)

lint: $(READY) ## check style and format
	@$(PYTHON) -m ruff check -q . && $(PYTHON) -m ruff format --check -q . && $(PYTHON) -m codespell_lib $(PROSE)

# torch 2.4, the oldest allowed, needs Python 3.12 or older: make test-oldest BASE_PYTHON=python3.12
test-oldest: ## the fast tests with the oldest versions that requirements.txt allows
	@test -x .venv-oldest/bin/python || $(BASE_PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install -q --disable-pip-version-check $$(sed 's/>=\(.*\)/==\1.*/' requirements.txt) \
	  pytest pytest-xdist hypothesis
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

clean: ## delete the environment and caches, keep data and runs
	rm -rf $(VENV) .venv-oldest .pytest_cache .ruff_cache .hypothesis report/build

##@ Publish
seeds: $(READY) ## train and summarise runs with three seeds; hours, resumable
	@$(PYTHON) code/study/train.py --group core --seed 42 43 44 --published
	@$(PYTHON) code/study/seeds.py

publish: $(READY) ## publish your finished runs on real data
	@$(PYTHON) code/study/publish.py
	@$(PYTHON) code/study/gallery.py

page: $(READY) ## write docs/index.html, the published models in the browser
	@$(PYTHON) code/study/page.py

# A virtual environment with the packages in requirements-dev.txt, installed again when a requirements file changes.
$(VENV)/ready: requirements.txt requirements-dev.txt
	@command -v $(BASE_PYTHON) >/dev/null || { echo "Python is missing: install Python 3.10 or newer"; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, for example: make BASE_PYTHON=python3.12"; exit 1; }
	@$(BASE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(IS_ROOT_DEBIAN) && \
	  echo "Installing python3-venv" && { $(APT_UPDATE); } && $(APT_INSTALL) python3-venv >/dev/null; } || \
	  { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV)/: downloads 3 GB, most of it PyTorch for GPUs, and uses 6 GB (docs/usage.md: a smaller build)"
	@$(BASE_PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt || \
	  { echo "pip could not install requirements-dev.txt, see above; check the network"; exit 1; }
	@$(VENV)/bin/python -c 'import torch, torchvision' 2>/dev/null || \
	  { echo "torch and torchvision do not match: $(VENV)/bin/python -m pip install --upgrade torch torchvision"; exit 1; }
	@touch $@

existing-environment:
	@$(PYTHON) -c 'import torch, torchvision, numpy, scipy, matplotlib, PIL, tqdm, filelock' || \
	  { echo "$(PYTHON) lacks packages: $(PYTHON) -m pip install -r requirements-dev.txt"; exit 1; }
