# `make repro` and `make test` need only Python 3.11 or newer, git and a package index; they create .venv.
#   PYTHON     interpreter from which .venv is made                 make repro PYTHON=python3.12
#   PIP_ARGS   more arguments for pip, such as an index             make repro PIP_ARGS="--extra-index-url https://..."
#   JOBS       test processes                                       make test JOBS=4
#   ARGS       more arguments for dvc repro, pytest or the UI       make test ARGS="-k tokens"

PYTHON ?= python3
PIP_ARGS ?=
JOBS ?= 2
ARGS ?=
PORT ?= 5000
FUZZ ?= 50000

VENV := $(CURDIR)/.venv
READY := .venv/.ready
SMOKE := .smoke
REPRO := python -m wscore.preflight && dvc repro
INSTALL := .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS)

# Stage commands say `python`; it has to be the one in .venv.
export PATH := $(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(VENV)
unexport PYTHONHOME PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help repro test quick fuzz mutants smoke rate-fidelity latents encoder-signals check coverage format ui bench report plots readme clean sae-pareto autoencoder-seeds publish-zoo experiments

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

repro: $(READY) ## run the whole pipeline, or the stages that changed
	python -m wscore.repro $(ARGS)

test: $(READY) ## run all tests
	python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

quick: $(READY) ## run the unit tests that are not slow
	python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS) tests/unit

fuzz: $(READY) ## fuzz the readers of every file format and published models for hours (FUZZ=examples per test)
	WSCORE_FUZZ=$(FUZZ) python -m pytest tests/properties/test_checkpoints.py tests/properties/test_readers.py tests/properties/test_published.py $(ARGS)

mutants: $(READY) ## put single wrong lines into a copy of the code, and list those that no test notices (some 15 minutes)
	python -m tests.mutants $(ARGS)

smoke: $(READY) ## run the whole pipeline on very little data, in a scratch copy (.smoke)
	rm -rf $(SMOKE)
	git ls-files --cached --others --exclude-standard | while IFS= read -r file; do \
		if [ -f "$$file" ]; then mkdir -p "$(SMOKE)/$$(dirname "$$file")" && cp "$$file" "$(SMOKE)/$$file"; fi; done
	git -C $(SMOKE) init --quiet
	cd $(SMOKE) && python -m wscore.presets presets/smoke.yaml params.yaml && dvc repro && cat metrics/table.md

rate-fidelity: $(READY) ## study: agreement over compression, the codec next to codes without a zoo
	$(REPRO) studies/rate_fidelity/dvc.yaml $(ARGS)

autoencoder-seeds: $(READY) ## study: spread of the autoencoder's metrics over seeds and splits (trains one for each)
	$(REPRO) studies/autoencoder_seeds/dvc.yaml $(ARGS)

sae-pareto: $(READY) ## study: sparsity of a dictionary against fidelity, all kinds of sparsity next to PCA
	$(REPRO) studies/sae_pareto/dvc.yaml $(ARGS)

encoder-signals: $(READY) ## study: what each training signal of the weight encoder adds
	$(REPRO) studies/encoder_signals/dvc.yaml $(ARGS)

latents: $(READY) ## study: interpolation and sampling in latent space
	$(REPRO) studies/latents/dvc.yaml $(ARGS)

experiments: $(READY) ## experiments beside each other: four headline metrics and changed parameters (ARGS=... as for dvc exp show)
	dvc exp show --csv $(ARGS) | python -m wscore.report.experiments

publish-zoo: $(READY) ## publish encoder, heads and codec of your zoo, into models/published_zoo
	$(REPRO) studies/publish_zoo/dvc.yaml $(ARGS)

check: $(READY) ## formatting, lint, types, known weaknesses of dependencies and all tests
	ruff format --check .
	ruff check .
	pyright
	python -m tests.audit
	$(MAKE) test

coverage: $(READY) ## all tests, and the lines that none of them runs (half as long again as make test)
	$(MAKE) test ARGS="--cov=wscore --cov-report=term-missing:skip-covered $(ARGS)"

format: $(READY) ## format the code and apply lint fixes
	ruff format .
	ruff check --fix .

ui: $(READY) ## browse this clone's MLflow runs (PORT=...); prints their address
	python -m wscore.ui --port $(PORT) $(ARGS)

bench: $(READY) ## time the hot paths next to reference implementations
	for file in benchmarks/[a-z]*.py; do python -m "benchmarks.$$(basename "$$file" .py)" || exit 1; done

report: $(READY) ## one page to open in a browser: results, map of the zoo, failures, training curves (plots/report.html)
	dvc repro $(ARGS) report

plots: $(READY) ## `dvc plots show` as a page that needs no network (dvc_plots/index.html; ARGS=... as for dvc plots show)
	python -m wscore.offline_plots --out .dvc/tmp/plots.html
	dvc plots show --html-template $(CURDIR)/.dvc/tmp/plots.html $(ARGS)

readme: $(READY) ## write the results of the last evaluation to README.md, docs/results.md and docs/summary.png
	python -m wscore.report.readme --metrics metrics --picture plots/evaluate/summary.png

clean: ## remove the scratch copy, rendered plots, training logs and tool caches (results and .venv stay)
	rm -rf $(SMOKE) dvc_plots runs .cache .pytest_cache .ruff_cache .hypothesis build ./*.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wscore needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	for half in 0 1; do \
		awk "NR % 2 == $$half && !/^#/" constraints.txt >.venv/half-$$half.txt; \
		$(INSTALL) --no-deps -r .venv/half-$$half.txt >/dev/null 2>&1 & \
	done; wait # two processes side by side; the next line installs what these could not
	$(INSTALL) -c constraints.txt -e '.[dev]'
	.venv/bin/python -m compileall -q -j 0 -x '/(tests?|plotly|databricks)/' .venv/lib >/dev/null 2>&1 || true # pip would take one core
	touch $@
