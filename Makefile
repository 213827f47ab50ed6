# Every target is one line of help under `make`. PYTHON makes the environment; VENV=path uses one that is there already.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
GRID ?=
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DEFAULT_GOAL = help
.PHONY: help demo test batch resume tables figures site bench fuzz lab lint lock clean

# An environment named by hand is the caller's: nothing is installed into it.
ifeq ($(origin VENV),file)
READY = $(VENV)/.installed
endif

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## the whole pipeline on made-up faces: training, detection, table, figures (minutes)
	@$(PY) -m workflow.batch params/grids/demo.yaml

batch: $(READY) ## run one grid: make batch GRID=params/grids/NAME.yaml
	@test -n "$(GRID)" || { echo "name a grid: make batch GRID=params/grids/NAME.yaml (there are: $$(ls params/grids | xargs))" >&2; exit 2; }
	@$(PY) -m workflow.batch "$(GRID)"

resume: $(READY) ## go on with the last grid after a kill, a failure or a power cut
	@$(PY) -m workflow.batch --resume

tables: $(READY) ## rebuild results/tables/runs.csv from the runs at hand
	@$(PY) -m fer_openset tables

figures: $(READY) ## every figure and table from results/tables and results/arrays: notebooks 04, 06, 07 and 08
	@for name in 06_protocol_audit 07_results_vs_paper 08_paper_figures; do \
	  $(PY) -m workflow.run_notebook notebooks/$$name.ipynb results/reports/$$name.ipynb; done
	@$(PY) -m workflow.run_notebook notebooks/04_ablations.ipynb results/reports/04_ablations.ipynb -p preset demo

site: $(READY) ## executed notebooks, tables and figures as a static site: site/index.html
	@$(PY) -m workflow.site

bench: $(READY) ## time the engine against a plain loop on this machine, into results/benchmarks (a quarter of an hour)
	@$(PY) -m benchmarks

test: $(READY) lint ## ruff, the tests, and every notebook in the smoke preset
	$(PY) -m pytest --durations=10
	rm -rf .cache/nbval && mkdir -p .cache/nbval && cp -r results/paper results/tables results/arrays .cache/nbval/
	FER_OPENSET_RESULTS=$(CURDIR)/.cache/nbval $(PY) -m pytest --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 --durations=5 notebooks

fuzz: $(READY) ## 10,000 damaged pictures, lists, settings and weight files (minutes); `make test` feeds some of each kind
	@$(PY) -m tests.fuzz

lint: $(READY) ## ruff over package, workflow, tests and notebooks
	@$(PY) -m ruff check .

lab: $(READY) ## open the notebooks in JupyterLab
	$(PY) -m jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

lock: $(READY) ## pin all dependencies again, with hashes, from pyproject.toml
	$(PY) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras \
	  pyproject.toml -o requirements.lock

clean: ## remove runs, reports and caches; tables, the environment and data stay
	rm -rf results/runs results/reports results/.snakemake site .cache .pytest_cache .ruff_cache
	find fer_openset workflow benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	$(PY) -m pip install --quiet "uv>=0.5"
	$(PY) -m uv pip install --python $(PY) --compile-bytecode --require-hashes -r requirements.lock
	$(PY) -m uv pip install --python $(PY) --no-deps -e .
	@touch $@
