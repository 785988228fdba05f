# Everything happens in $(VENV); nothing outside this folder is changed. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# The tested torch. Another one: make TORCH='torch==2.5.1'. On Linux without an NVIDIA device the CPU-only build of it is taken where pip finds one.
TORCH ?= torch==2.13.0
# The demo: SEED=n another seed, DATA=/path a folder of your own recordings (pre-training only), DEMO_DIR where it writes, DEMO_ARGS and
# FINE_TUNING further overrides of its pre-training and its fine-tuning
SEED ?= 1
DATA ?=
DEMO_DIR ?= demo_output
DEMO_ARGS ?=
FINE_TUNING ?=
TESTS ?= tests
# Tests are tiny: processes side by side finish sooner than threads
TEST_PROCESSES ?= 2
TEST_THREADS ?= 1
# VENV_ARGS=--system-site-packages TORCH= where a container brings its own torch, as Gaudi's do
VENV_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
TELL := $(PYTHON) scripts/tell.py
STAMP := $(VENV)/.fairseq-hpu-installed
DECODE := $(VENV)/.fairseq-hpu-decode
OPTIONAL := $(VENV)/.fairseq-hpu-optional
DOCS := $(VENV)/.fairseq-hpu-docs
# Gaudi's containers bring a torch of their own, without which the cards are out of reach: it is neither replaced nor hidden
KEEP_GAUDIS_TORCH = for python in "$(PYTHON)" "$(PY)"; do \
	if [ -n "$(TORCH)" ] && "$$python" -c 'import importlib.metadata as m; m.version("habana-torch-plugin")' 2>/dev/null; then \
	echo "$$python has Gaudi's habana-torch-plugin, which works with Gaudi's own torch only; make would put $(TORCH) in its place."; \
	echo "Type instead: rm -rf $(VENV); make VENV_ARGS=--system-site-packages TORCH= $(MAKECMDGOALS)"; \
	echo "or, without make: pip install --editable ."; exit 1; fi; done
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# else pyright asks the package index for a newer release of itself
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: torch-is-free help venv dev test quick demo check docs bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

torch-is-free:
	@$(KEEP_GAUDIS_TORCH)

$(PY):
	@$(KEEP_GAUDIS_TORCH)
	@$(TELL) "making a virtual environment in $(VENV)" $(PYTHON) -m venv $(VENV_ARGS) $(VENV)

# torch first and by itself, so that resolving the package's own requirements cannot bring another build of it
$(STAMP): setup.py pyproject.toml | $(PY)
	@$(KEEP_GAUDIS_TORCH)
	@if [ -z "$(TORCH)" ]; then :; \
	elif [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ] && \
		$(TELL) "installing PyTorch, the CPU build (about 200 MB)" $(PIP) install --quiet "$(TORCH)+cpu" 2>/dev/null; then :; \
	else $(TELL) "installing PyTorch (with CUDA, up to 3 GB)" $(PIP) install --quiet "$(TORCH)"; fi
	@$(TELL) "installing this package, its requirements and the test tools" $(PIP) install --quiet --editable ".[dev,demo,resample]"
	@touch $@

venv: $(STAMP) ## the environment: torch, the package (editable), what tests and demo need

dev: venv ## the same, by the name developers look for

# kept apart: what one machine cannot install (kenlm is compiled) must not keep anybody from the demo
$(DECODE): $(STAMP)
	@$(TELL) "installing what decodes with a language model: flashlight-text, and kenlm, which is compiled (1 to 3 minutes)" \
	$(PIP) install --quiet --editable ".[decode]" || \
	echo "extra decode cannot be installed here: its tests are skipped, and the demo decodes greedily only"
	@touch $@

$(OPTIONAL): $(DECODE)
	@for extra in convert onnx parquet slurm; do \
	$(TELL) "installing the extra $$extra for its tests" $(PIP) install --quiet --editable ".[$$extra]" || echo "extra $$extra cannot be installed here: its tests are skipped"; done
	@touch $@

test: $(OPTIONAL) ## all set-up, then the tests
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile $(TESTS)

quick: $(STAMP) ## what to run after every change: unit and parity tests without those that start processes or take long
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile -m "not slow and not process" \
	tests/unit tests/parity tests/test_floors.py

demo: $(DECODE) ## pre-train a tiny model on a made corpus, fine-tune it, decode, and say what it learned (DATA=/path: pre-train on that)
	$(PY) examples/wav2vec/demo/run_demo.py --seed $(SEED) --output "$(DEMO_DIR)" $(if $(DATA),--data "$(DATA)") \
	--fine-tuning "$(FINE_TUNING)" -- $(DEMO_ARGS)

check: $(DOCS) ## rules and format (ruff), types (pyright), and the documentation; no network once the environment is there
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

$(DOCS): $(STAMP) fairseq/installed.py
	@$(TELL) "installing mkdocs and its theme" $(PIP) install --quiet --editable ".[docs]"
	@touch $@

# Material's advertisement is switched off: it would stand between the build's own warnings
docs: $(DOCS) ## the documentation's site, in site/ (strict: a broken link or an unknown name is an error)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench: $(STAMP) ## the benchmarks that need nothing but this package; results under benchmarks/results
	$(PY) benchmarks/import_time.py
	$(PY) benchmarks/manifest.py
	$(PY) benchmarks/data_loading.py
	$(PY) benchmarks/pretrain_step.py

clean: ## remove what make and the demo wrote, the environment too
	rm -rf $(VENV) site demo_output .pytest_cache .ruff_cache build *.egg-info
