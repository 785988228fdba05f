# Everything is installed in $(VENV); nothing outside this folder is changed. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# The tested torch. For another one: make TORCH='torch==2.5.1'. On Linux without an NVIDIA device, the CPU-only build is installed if pip finds one.
TORCH ?= torch==2.13.0
# The demo: SEED: another seed; DATA: a folder of your own recordings (pre-training only); DEMO_DIR: the output folder; DEMO_ARGS and FINE_TUNING:
# further overrides for pre-training and fine-tuning
SEED ?= 1
DATA ?=
DEMO_DIR ?= demo_output
DEMO_ARGS ?=
FINE_TUNING ?=
TESTS ?= tests
# Tests are tiny: several processes are faster than several threads
TEST_PROCESSES ?= 2
TEST_THREADS ?= 1
# in the order of the folders: otherwise xdist starts the slow files, which have few tests, last
SPREAD = --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# VENV_ARGS=--system-site-packages TORCH= for a container with its own torch, such as Gaudi's
VENV_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
TELL := $(PYTHON) scripts/tell.py
STAMP := $(VENV)/.fairseq-hpu-installed
DECODE := $(VENV)/.fairseq-hpu-decode
OPTIONAL := $(VENV)/.fairseq-hpu-optional
DOCS := $(VENV)/.fairseq-hpu-docs
# Gaudi's containers have their own torch, which the cards need: do not replace or hide it
KEEP_GAUDIS_TORCH = for python in "$(PYTHON)" "$(PY)"; do \
	if [ -n "$(TORCH)" ] && "$$python" -c 'import importlib.metadata as m; m.version("habana-torch-plugin")' 2>/dev/null; then \
	echo "$$python has Gaudi's habana-torch-plugin, which only works with Gaudi's own torch; make would replace that by $(TORCH)."; \
	echo "Use instead: rm -rf $(VENV); make VENV_ARGS=--system-site-packages TORCH= $(MAKECMDGOALS)"; \
	echo "or, without make: pip install --editable ."; exit 1; fi; done
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# otherwise pyright checks the package index for a newer release
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

# torch first and separately, so that the package's requirements cannot install another build of it
$(STAMP): setup.py pyproject.toml | $(PY)
	@$(KEEP_GAUDIS_TORCH)
	@if [ -z "$(TORCH)" ]; then :; \
	elif [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ] && \
		$(TELL) "installing PyTorch, the CPU build (about 200 MB)" $(PIP) install --quiet "$(TORCH)+cpu" 2>/dev/null; then :; \
	else $(TELL) "installing PyTorch (with CUDA, up to 3 GB)" $(PIP) install --quiet "$(TORCH)"; fi
	@$(TELL) "installing this package, its requirements and the test tools" $(PIP) install --quiet --editable ".[dev,demo,resample]"
	@touch $@

venv: $(STAMP) ## the environment: torch, the package (editable), what tests and demo need

dev: venv ## the same as venv

# separate: the demo must work even where KenLM has no wheel
$(DECODE): $(STAMP)
	@$(TELL) "installing the language model decoder: KenLM, and flashlight-text up to Python 3.12" \
	$(PIP) install --quiet --editable ".[decode]" || \
	echo "extra decode cannot be installed here: its tests are skipped, and the demo decodes greedily only"
	@touch $@

$(OPTIONAL): $(DECODE)
	@for extra in convert lhotse onnx parquet report slurm vad; do \
	$(TELL) "installing the extra $$extra for its tests" $(PIP) install --quiet --editable ".[$$extra]" || echo "extra $$extra cannot be installed here: its tests are skipped"; done
# with the extra s3, so that both get a botocore that they can use
	@$(TELL) "installing moto, an S3 store for the tests" $(PIP) install --quiet "s3fs[boto3]>=2023.10" "moto[server]" || \
	echo "moto cannot be installed here: the tests of object stores are skipped"
	@touch $@

test: $(OPTIONAL) ## install everything, then run all tests
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -q $(SPREAD) $(TESTS)

quick: $(STAMP) ## for every change: unit and parity tests, without those that start processes or are slow
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -q $(SPREAD) -m "not slow and not process" \
	tests/unit tests/parity tests/test_floors.py

demo: $(DECODE) ## pre-train a tiny model on synthetic speech, fine-tune it, decode, and report results (DATA=/path: pre-train on that)
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

# Material's advertisement is switched off: it would hide the build's own warnings
docs: $(DOCS) ## the documentation site, in site/ (strict: a broken link or an unknown name is an error)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench: $(STAMP) ## the benchmarks that only need this package; results in benchmarks/results
	$(PY) benchmarks/import_time.py
	$(PY) benchmarks/manifest.py
	$(PY) benchmarks/large_manifest.py
	$(PY) benchmarks/data_loading.py
	$(PY) benchmarks/pretrain_step.py

clean: ## remove everything that make and the demo wrote, including the environment
	rm -rf $(VENV) site demo_output .pytest_cache .ruff_cache build *.egg-info
