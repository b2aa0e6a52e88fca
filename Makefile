# The whole interface of the kit; `make help` lists it. The logic lives in Python.

MODEL ?= smollm2-135m
WORK ?= .
ESCONV ?=
SPLIT ?=
LIMIT ?=
CONSECUTIVE ?= separate
NPROC ?=
ENGINE ?=
TRAIN_ARGS ?=
TASK ?=
DTYPE ?=
SYSTEM ?= decoupled
STAGE ?=
VARIANT ?=
ROUND ?=
SET ?= test
DECODE ?=
TEMPERATURE ?=
SAMPLES ?=
BLIND ?=
JUDGE2 ?=
JUDGE2_BASE_URL ?= $(JUDGE_BASE_URL)
FAILED_ESCONV ?=
MODELS ?=
STEPS ?=
BASE_URL ?=
HOST ?= 127.0.0.1
PORT ?= 8000
SERVE_ARGS ?=
IN_FLIGHT ?=
JUDGE_IN_FLIGHT ?=
KIND ?=
PRICE ?=
MAX_COST ?=
DRY_RUN ?=
BATCH ?=
JUDGE_BATCH ?=
SHARD ?=
FORCE ?=
PYTHON ?= python3

# Through the environment: a shell would take the quotes in SERVE_ARGS, and every step that asks
# models reads BATCH. JUDGE and JUDGE_BASE_URL are read there too.
export JUDGE_IN_FLIGHT SERVE_ARGS BATCH JUDGE_BATCH SHARD

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SCALE_READY := $(VENV)/.ready-scale
SERVE_READY := .venv-serve/.ready
RAY_READY := .venv-ray/.ready
WHERE := --work "$(WORK)"

.DEFAULT_GOAL := help
.PHONY: help doctor setup setup-scale setup-serve setup-ray model data check-data stats sft-sp sft-rg sft-vanilla \
        mine-sp mine-rg mine-vanilla mine dpo-sp dpo-rg dpo-vanilla \
        export serve stop check-template predict eval report chat card recipes demo reproduce \
        test test-unit lint bench clean

help:  ## this list
	@echo "DecoupledESC kit: plan-then-speak emotional support models with LLaMA-Factory."
	@echo "Research software, no counselling."
	@echo
	@grep -hE '^[a-z-]+( [a-z-]+)*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-34s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: MODEL=$(MODEL) (a folder of llamafactory_configs), ESCONV=path, SPLIT=paper|seed:N,"
	@echo "  LIMIT=dialogues per split, CONSECUTIVE=separate|merge-same|merge, NPROC=processes,"
	@echo "  TRAIN_ARGS=\"key=value ...\" for LLaMA-Factory, WORK=folder for all that is made, FORCE=1"
	@echo "  sft, dpo: ENGINE=zero2|zero3|fsdp|qlora|ray; NNODES, NODE_RANK, MASTER_ADDR for several machines"
	@echo "  export:   TASK=sp|rg|vanilla, STAGE=sft|dpo, DTYPE=float32|bfloat16"
	@echo "  mine:     SAMPLES=of each turn, JUDGE=model|random, JUDGE_BASE_URL=url, BLIND=1,"
	@echo "            JUDGE2=model and JUDGE2_BASE_URL for a second judge and their agreement"
	@echo "  dpo:      VARIANT=practical|ipo|simpo|orpo|kto, vanilla also nsnr|nsnr_psnr|nsnr_nspr|psnr;"
	@echo "  mine, dpo, predict, chat:  ROUND=2 (with VARIANT) goes on from the models of the round before"
	@echo "  serve:    HOST, PORT, SERVE_ARGS=\"flags for vLLM\""
	@echo "  predict:  SYSTEM=decoupled|decoupled-gold|vanilla|direct-refine|self-refine|emotional-cot,"
	@echo "            or several in one server start: SYSTEMS=\"vanilla_base decoupled_dpo vanilla_dpo_nsnr\","
	@echo "            STAGE=base|sft|dpo, SET=test|validation|train, DECODE=free|choice,"
	@echo "            TEMPERATURE=0 for greedy (default 0.7), BASE_URL=url,url,"
	@echo "            IN_FLIGHT=requests at a time, PRICE=in/out per million tokens, MAX_COST, DRY_RUN=1"
	@echo "  reproduce:  STEPS=\"names of its steps\", DRY_RUN=1 for the plan and what it takes;"
	@echo "            MAX_COST is of each step; BATCH and NNODES of steps that are called by themselves"
	@echo "  mine, predict, eval:  BATCH=vllm|ray|openai|write|read through batch files, SHARD=requests of one;"
	@echo "            of mine it is the step's that can use it; JUDGE_BATCH where the judge's is another"
	@echo "  eval:     JUDGE, JUDGE_BASE_URL, JUDGE_N=turns judged, JUDGE_FORM=number|reason,"
	@echo "            FAILED_ESCONV=FailedESConv.json for Figure 2;"
	@echo "            PRICE, MAX_COST of all its steps together, DRY_RUN=1"
	@echo "  mine, eval:  JUDGE_IN_FLIGHT=questions to the judge at a time"
	@echo "Examples:"
	@echo "  make demo"
	@echo "  make sft-sp sft-rg ESCONV=ESConv.json MODEL=qwen2.5-7b NPROC=4"
	@echo "  make sft-sp LIMIT=2 WORK=try TRAIN_ARGS=\"num_train_epochs=1.0\""
	@echo "  make mine-sp dpo-sp LIMIT=8"
	@echo "  make serve MODEL=qwen2.5-7b SERVE_ARGS=\"--tensor-parallel-size 4\""
	@echo "  make predict MODEL=qwen2.5-7b SYSTEM=decoupled STAGE=sft"

doctor:  ## what this machine has and lacks, with the fix
	@$(PYTHON) -m experiments.doctor

setup: $(READY)  ## the training environment in .venv (about 7 GB)

$(READY): requirements/train.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-deps -r requirements/train.txt -r requirements/dev.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(PY) -c "import torch, torchaudio, llamafactory, gguf"
	@touch $@

setup-scale: $(SCALE_READY)  ## DeepSpeed and bitsandbytes into .venv, for ENGINE=zero2, zero3, qlora

$(SCALE_READY): requirements/scale.txt | $(READY)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -r $<
	$(PY) -c "import deepspeed, bitsandbytes"
	@touch $@

setup-serve: $(SERVE_READY)  ## the serving environment in .venv-serve: vLLM; KIND=gpu|cpu, or as found

# Made anew where its own lock has changed, or where KIND names the other one.
MADE_FOR := $(shell cat $(SERVE_READY) 2>/dev/null)
$(SERVE_READY): $(MADE_FOR:%=requirements/serve-%.txt) | $(READY)
	@$(PY) -m serving install --kind "$(or $(KIND),$(MADE_FOR))"
ifneq ($(filter-out $(MADE_FOR),$(KIND)),)
.PHONY: $(SERVE_READY)
endif

setup-ray: $(RAY_READY)  ## Ray beside vLLM in .venv-ray, for BATCH=ray (0.5 GB)

$(RAY_READY): requirements/ray.txt | $(SERVE_READY)
	@$(PY) -m serving install --ray

model: $(READY)  ## the embedded default model in models/smollm2-135m
	@$(PY) -m training model --model "$(MODEL)"

data: $(READY)  ## the SFT sets and their manifest in data/
	@$(PY) -m data_builders build $(WHERE) --esconv "$(ESCONV)" --split "$(SPLIT)" \
	  --limit "$(LIMIT)" --consecutive "$(CONSECUTIVE)"

check-data: model data  ## kept, dropped and cut rows, by LLaMA-Factory's own converter and tokenizer
	@$(PY) -m data_builders check $(WHERE) --model "$(MODEL)"

stats: data  ## Table 1, Table 6 and Figure 8 beside the paper, in data/stats
	@$(PY) -m data_builders stats $(WHERE)

SPREAD := $(if $(filter zero2 zero3 qlora,$(ENGINE)),$(SCALE_READY))
# Of several machines, what follows a training is done on the first.
FOLLOWS := $(filter-out 0,$(NODE_RANK))

sft-sp sft-rg sft-vanilla: sft-%: model data $(SPREAD)  ## LoRA SFT of planner, generator, entangled model
	@VARIANT= ROUND= $(PY) -m training train $(WHERE) --model "$(MODEL)" --task $* --stage sft \
	  --processes "$(NPROC)" --engine "$(ENGINE)" $(AGAIN) --set $(TRAIN_ARGS)

# A BASE_URL needs no server of our own, nor do files for others. Sets that are built are taken as they are: here LIMIT is of
# the prediction, and must not cut them down.
BUILT := $(shell test -f "$(WORK)/data/manifest.json" && echo yes)
ELSEWHERE := $(BASE_URL) $(filter write read,$(BATCH))
ASKS := $(if $(strip $(ELSEWHERE)),,$(SERVE_READY)) $(if $(filter ray,$(BATCH)),$(RAY_READY)) $(if $(BUILT),,data)

LINEAGE := --model "$(MODEL)" --variant "$(VARIANT)" --round "$(ROUND)"
# A judge's number of requests at a time is JUDGE_IN_FLIGHT.
SENDING := $(if $(filter 1,$(DRY_RUN)),--dry-run)
SPENDING := $(SENDING) --price "$(PRICE)" --max-cost "$(MAX_COST)"
AGAIN := $(if $(filter 1,$(FORCE)),--force)
BLINDLY := $(if $(filter 1,$(BLIND)),--blind)

TASKS = $(if $(filter mine,$@),sp rg vanilla,$(patsubst mine-%,%,$@))
# The planner's errors are found by comparing names; the others' need a judge.
JUDGED = $(filter-out sp,$(TASKS))
# BATCH is of the step that can use it: a service has none of this WORK's models, and these engines no judge.
SAMPLE = BATCH="$(filter-out $(if $(JUDGED),$(if $(JUDGE_BATCH),,openai)),$(BATCH))" $(PY) -m mining sample --price "" --max-cost ""
JUDGES = BATCH="$(filter-out vllm ray,$(BATCH))" $(PY) -m mining judge

mine mine-sp mine-rg mine-vanilla: model $(ASKS)  ## errors of the SFT models on train turns, as preference sets
	@$(SAMPLE) $(WHERE) $(LINEAGE) --task $(TASKS) --limit "$(LIMIT)" \
	  --samples "$(SAMPLES)" --decode "$(DECODE)" --base-url "$(BASE_URL)" \
	  --in-flight "$(IN_FLIGHT)" $(SENDING) $(AGAIN)
	$(if $(JUDGED),@$(JUDGES) $(WHERE) $(LINEAGE) --task $(JUDGED) $(BLINDLY) $(SPENDING) $(AGAIN))
	$(if $(and $(JUDGED),$(JUDGE2)),@$(JUDGES) $(WHERE) $(LINEAGE) --task $(JUDGED) $(BLINDLY) \
	  --judge "$(JUDGE2)" --judge-base-url "$(JUDGE2_BASE_URL)" $(SPENDING) $(AGAIN))
ifneq ($(DRY_RUN),1)
	$(if $(and $(JUDGED),$(JUDGE2)),@$(PY) -m mining agreement $(WHERE) $(LINEAGE) --task $(JUDGED) $(BLINDLY) \
	  --judge2 "$(JUDGE2)")
	@# A task without pairs is an error of its own: the others' sets are made all the same.
	@$(PY) -m mining route $(WHERE) $(LINEAGE) --task $(TASKS) $(BLINDLY) $(AGAIN); routed=$$?; \
	$(PY) -m data_builders preference $(WHERE) $(LINEAGE) --task $(TASKS); made=$$?; \
	$(PY) -m mining stats $(WHERE) $(LINEAGE) && exit $$((routed ? routed : made))
endif

dpo-sp dpo-rg dpo-vanilla: dpo-%: model $(SPREAD) $(SERVE_READY)  ## preference training on what was mined
	@$(PY) -m training train $(WHERE) $(LINEAGE) --task $* --stage dpo \
	  --processes "$(NPROC)" --engine "$(ENGINE)" --dtype "$(DTYPE)" $(AGAIN) --set $(TRAIN_ARGS)
	$(if $(FOLLOWS),,@$(PY) -m serving compose $(WHERE) $(LINEAGE) --task $*)
	$(if $(FOLLOWS),,@$(PY) -m training drift $(WHERE) $(LINEAGE) --task $* --limit "$(LIMIT)")

export: model  ## base and adapters as one checkpoint: TASK=sp STAGE=dpo, DTYPE=float32
	@$(PY) -m training export $(WHERE) $(LINEAGE) --task "$(TASK)" --stage "$(STAGE)" --dtype "$(DTYPE)"

serve: model $(SERVE_READY)  ## one OpenAI-compatible server with the base and every adapter
	@$(PY) -m serving start $(WHERE) --model "$(MODEL)" --host "$(HOST)" --port "$(PORT)"

stop: $(READY)  ## end that server
	@$(PY) -m serving stop $(WHERE) --model "$(MODEL)"

check-template: $(READY)  ## the server's token ids against LLaMA-Factory's, on real rows
	@$(PY) -m serving check-template $(WHERE) --model "$(MODEL)" --base-url "$(BASE_URL)"

predict: model $(ASKS)  ## a system's strategy and reply for every turn of a split
	@$(PY) -m eval predict $(WHERE) $(LINEAGE) --system $(or $(SYSTEMS),$(SYSTEM)) --stage "$(STAGE)" \
	  --set "$(SET)" --limit "$(LIMIT)" --decode "$(DECODE)" --temperature "$(TEMPERATURE)" \
	  --base-url "$(BASE_URL)" --in-flight "$(IN_FLIGHT)" $(SPENDING) $(AGAIN)

chat: model $(if $(BASE_URL),,$(SERVE_READY))  ## talk with planner and generator in the terminal
	@$(PY) -m eval chat $(WHERE) $(LINEAGE) $(if $(STAGE),--stage "$(STAGE)") \
	  --base-url "$(BASE_URL)" --decode "$(DECODE)"

eval: model $(SERVE_READY)  ## metrics, judge and errors of every system that has predictions
	@$(PY) -m experiments evaluate $(WHERE) --model "$(MODEL)" --failed-esconv "$(FAILED_ESCONV)" \
	  $(SPENDING) $(AGAIN)

report: $(READY)  ## one page beside the paper: runs/$$MODEL/report.html (MODELS="a b" side by side)
	@$(PY) -m eval report $(WHERE) --models $(or $(MODELS),"$(MODEL)")

card: $(READY)  ## cards of the sets and finished adapters in Hugging Face's format: data/README.md …
	@$(PY) -m experiments card $(WHERE) --model "$(MODEL)" $(AGAIN)

recipes: $(READY)  ## render llamafactory_configs/<model>/*.yaml from the table of backbones
	@$(PY) -m training render

demo: $(READY) $(SERVE_READY)  ## the whole loop in small: data, SFT, mining, DPO, predictions, report; in demo/
	@$(PY) -m experiments demo --esconv "$(ESCONV)"

# Every variable that decides what comes out, or how fast; SERVE_ARGS is exported as it is.
PLANNED := ESCONV SPLIT LIMIT CONSECUTIVE TRAIN_ARGS ENGINE SAMPLES DECODE TEMPERATURE JUDGE JUDGE_BASE_URL \
           JUDGE_N JUDGE_FORM FAILED_ESCONV NPROC BASE_URL IN_FLIGHT JUDGE_IN_FLIGHT PRICE MAX_COST

reproduce: $(READY) $(if $(filter 1,$(DRY_RUN)),,$(SERVE_READY))  ## the paper's whole experiment; DRY_RUN=1 shows plan and costs
	@$(PY) -m experiments reproduce $(WHERE) --model "$(MODEL)" $(if $(filter 1,$(DRY_RUN)),--dry-run) \
	  --steps $(STEPS) --set $(foreach name,$(PLANNED),"$(name)=$($(name))")

test: $(READY) $(SCALE_READY) $(SERVE_READY)  ## all tests, the slow ones too
	@$(MAKE) --no-print-directory model MODEL=smollm2-135m
	$(PY) -m pytest $(SIDE_BY_SIDE)
	$(PY) -m pytest -m slow

# A file's tests stay together: they share what its fixtures make. More workers would each load torch.
SIDE_BY_SIDE := -m "not slow" -n 2 --dist loadfile

test-unit: $(READY) $(SCALE_READY)  ## the fast, offline tests
	@$(MAKE) --no-print-directory model MODEL=smollm2-135m
	$(PY) -m pytest $(SIDE_BY_SIDE)

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench:  ## speed figures as JSON (ESCONV=path for the full corpus)
	@$(MAKE) --no-print-directory --silent model setup-serve MODEL=smollm2-135m >&2
	@$(PY) -m experiments bench --esconv "$(ESCONV)"

clean:  ## delete demo/ and caches; data/, saves/, runs/, models/ and environments stay
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +
