# The whole interface of the kit; `make help` lists it. The orders of demo and reproduce are in plans.mk.
MODEL ?= smollm2-135m
WORK ?= .
PYTHON ?= python3
# Each step reads its own variables; only those that are set are handed on (NNODES may not be empty).
VARIABLES := MODEL WORK ESCONV SPLIT LIMIT CONSECUTIVE NPROC ENGINE TRAIN_ARGS TASK DTYPE SYSTEM SYSTEMS STAGE \
  VARIANT ROUND SET DECODE TEMPERATURE SAMPLES BLIND JUDGE JUDGE_BASE_URL JUDGE_N JUDGE_FORM JUDGE2 \
  JUDGE2_BASE_URL FAILED_ESCONV MODELS BASE_URL HOST PORT SERVE_ARGS IN_FLIGHT JUDGE_IN_FLIGHT KIND PRICE \
  MAX_COST DRY_RUN BATCH JUDGE_BATCH SHARD FORCE V STRATEGIES ERRORS BACKBONES MAPPING PROFILE TOKENIZE \
  SEEKER SEEKER_BASE_URL SEEKER2 SEEKER2_BASE_URL CARDS TURNS SEED EXTERNAL EXTERNAL_BASE_URL LAYOUT KEEP PACK
unexport $(VARIABLES)
$(foreach name,$(VARIABLES),$(if $(strip $($(name))),$(eval export $(name))))
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SCALE_READY := $(VENV)/.ready-scale
SERVE_READY := .venv-serve/.ready
RAY_READY := .venv-ray/.ready
.PHONY: $(shell sed -n 's/^\([a-z -]*\):.*\#\# .*/\1/p' Makefile plans.mk)
help:  ## this list
	@echo "DecoupledESC kit: plan-then-speak models with LLaMA-Factory. Research software, no counselling."
	@grep -hE '^[a-z -]+:.*## ' Makefile plans.mk | awk -F ':.*## ' '{printf "  make %-34s %s\n", $$1, $$2}'
	@sed -n 's/^#| \{0,1\}//p' Makefile

#| Variables, of the environment or the command line; a step's --help says which are its own:
#|   MODEL=folder of llamafactory_configs, WORK=folder of all that is made, FORCE=1, V=1 (all output)
#|   lists of one's own: STRATEGIES=file, ERRORS=file, BACKBONES=file (docs/own_corpus.md)
#|   data:    ESCONV=path, MAPPING=file, SPLIT=paper|hf|files|seed:N, LIMIT=dialogues a split,
#|            CONSECUTIVE=separate|merge-same|merge
#|   sft, dpo: TRAIN_ARGS="key=value …" for LLaMA-Factory, KEEP=1 (checkpoints), PACK=1 (of SFT), NPROC, NNODES, NODE_RANK, MASTER_ADDR,
#|            ENGINE=zero2|zero3|fsdp|qlora|ray, VARIANT=practical|ipo|simpo|orpo|kto, of vanilla also
#|            nsnr|nsnr_psnr|nsnr_nspr|psnr, of rg converse; LAYOUT=turn|dialogue of all that sp and rg do; export: TASK=sp|rg|vanilla, DTYPE=float32|bfloat16
#|   mine:    SAMPLES=of a turn, JUDGE=model|random, JUDGE_BASE_URL, BLIND=1, JUDGE2 and JUDGE2_BASE_URL;
#|            like dpo, predict, chat: ROUND=2 (with VARIANT), on from the models of the round before
#|   predict: SYSTEM=decoupled|decoupled-gold|vanilla|direct-refine|self-refine|emotional-cot and
#|            STAGE=base|sft|dpo, or SYSTEMS="vanilla_base decoupled_dpo" by one server; SET=test|validation|
#|            train, DECODE=free|choice, TEMPERATURE=0 (greedy; default 0.7), BASE_URL=url,url, IN_FLIGHT
#|   eval:    JUDGE, JUDGE_BASE_URL, JUDGE_N=turns, JUDGE_FORM=number|reason, FAILED_ESCONV=file (Figure 2),
#|            PROFILE=paper|esconv and TOKENIZE=en|zh|char|ja-mecab of text metrics
#|   converse: SYSTEMS="decoupled_dpo template external", SEEKER, SEEKER_BASE_URL, SEEKER2, SEEKER2_BASE_URL,
#|            CARDS=file|sample|danger, LIMIT=cards, TURNS, SEED, EXTERNAL=model, EXTERNAL_BASE_URL
#|   all that ask: PRICE=in/out per million tokens, MAX_COST of a step, DRY_RUN=1, JUDGE_IN_FLIGHT,
#|            BATCH=vllm|ray|openai|write|read by batch files, JUDGE_BATCH, SHARD=requests of one
#|   serve:   HOST, PORT (as of ui), SERVE_ARGS="vLLM's flags"; setup-serve: KIND=gpu|cpu; report: MODELS="a b"

doctor:  ## what this machine has and lacks, with the fix; of a MODEL= too
	@MODEL=$(if $(filter file,$(origin MODEL)),,$(MODEL)) $(PYTHON) -m experiments.doctor

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
# Made anew where its lock has changed, or KIND names the other one.
MADE_FOR := $(shell cat $(SERVE_READY) 2>/dev/null)
$(SERVE_READY): $(MADE_FOR:%=requirements/serve-%.txt) | $(READY)
	@KIND="$(or $(KIND),$(MADE_FOR))" $(PY) -m serving install
ifneq ($(filter-out $(MADE_FOR),$(KIND)),)
.PHONY: $(SERVE_READY)
endif

setup-ray: $(RAY_READY)  ## Ray beside vLLM in .venv-ray, for BATCH=ray (0.5 GB)
$(RAY_READY): requirements/ray.txt | $(SERVE_READY)
	@$(PY) -m serving install --ray

model: $(READY)  ## the embedded default model in models/smollm2-135m
	@$(PY) -m training model
data: $(READY)  ## the SFT sets and their manifest in data/
	@$(PY) -m data_builders build
check-data: model data  ## kept, dropped and cut rows, by LLaMA-Factory's own converter and tokenizer
	@$(PY) -m data_builders check
stats: data  ## Table 1, Table 6 and Figure 8 beside the paper, in data/stats
	@$(PY) -m data_builders stats

SPREAD := $(if $(filter zero2 zero3 qlora,$(ENGINE)),$(SCALE_READY))
sft-sp sft-rg sft-vanilla: sft-%: model data $(SPREAD)  ## LoRA SFT of planner, generator, entangled model
	@VARIANT= ROUND= STAGE=sft TASK=$* $(PY) -m training train

# A BASE_URL needs no server of ours, nor do files for others. Built sets stay: LIMIT is not theirs here.
ELSEWHERE := $(BASE_URL) $(filter write read,$(BATCH))
ASKS := $(if $(strip $(ELSEWHERE)),,$(SERVE_READY)) $(if $(filter ray,$(BATCH)),$(RAY_READY)) \
  $(if $(wildcard $(WORK)/data/manifest.json),,data)
TASKS = $(if $(filter mine,$@),sp rg vanilla,$(patsubst mine-%,%,$@))
# The planner's errors are found by comparing names; the others' need a judge.
JUDGED = $(filter-out sp,$(TASKS))
# BATCH is of the step that can use it: a service has no model of this WORK, and these engines no judge.
OF_SAMPLES = $(filter-out $(if $(JUDGED),$(if $(JUDGE_BATCH),,openai)),$(BATCH))
JUDGES = TASK="$(JUDGED)" BATCH="$(filter-out vllm ray,$(BATCH))" $(PY) -m mining judge
mine mine-sp mine-rg mine-vanilla: model $(ASKS)  ## errors of the SFT models on train turns, as preference sets
	@TASK="$(TASKS)" BATCH="$(OF_SAMPLES)" PRICE= MAX_COST= $(PY) -m mining sample
	$(if $(JUDGED),@$(JUDGES))
ifneq ($(DRY_RUN),1)
	@# A task without pairs is an error of its own: the others' sets are made all the same.
	@export TASK="$(TASKS)"; $(PY) -m mining route; routed=$$?; $(PY) -m data_builders preference; made=$$?; \
	$(PY) -m mining stats && exit $$((routed ? routed : made))
endif

mine-converse: model $(ASKS)  ## pairs of simulated conversations on train cards, for dpo-rg VARIANT=converse
	@$(PY) -m mining converse
# Of several machines, what follows a training is done on the first.
FOLLOWS := $(filter-out 0,$(NODE_RANK))
dpo-sp dpo-rg dpo-vanilla: dpo-%: model $(SPREAD) $(SERVE_READY)  ## preference training on what was mined
	@STAGE=dpo TASK=$* $(PY) -m training train
	$(if $(FOLLOWS),,@TASK=$* $(PY) -m serving compose --drift)

export: model  ## base and adapters as one checkpoint: TASK=sp STAGE=dpo, DTYPE=float32
	@$(PY) -m training export
serve: model $(SERVE_READY)  ## one OpenAI-compatible server with the base and every adapter
	@$(PY) -m serving start
stop: $(READY)  ## end that server
	@$(PY) -m serving stop
check-template: $(READY)  ## the server's token ids against LLaMA-Factory's, on real rows
	@$(PY) -m serving check-template
predict: model $(ASKS)  ## a system's strategy and reply for every turn of a split
	@$(PY) -m eval predict
converse: model $(ASKS)  ## systems in conversation with simulated seekers, rated by a judge
	@$(PY) -m eval converse$(if $(filter 1,$(DRY_RUN)),, && $(PY) -m eval rate)
ui: model  ## a page in the browser: talk, compare blind, check mined pairs, read (PORT, default 7860)
	@$(PY) -m eval ui
chat: model $(if $(BASE_URL),,$(SERVE_READY))  ## talk with planner and generator in the terminal
	@$(PY) -m eval chat
eval: model $(SERVE_READY)  ## metrics, judge and errors of every system that has predictions
	@failed=0; for step in $(if $(DRY_RUN),,"eval metrics") "eval judge" "mining classify" $(if $(DRY_RUN),,"eval compare"); \
	  do $(PY) -m $$step || failed=$$?; done; exit $$failed
report: $(READY)  ## one page beside the paper: runs/$MODEL/report.html (MODELS="a b" side by side)
	@$(PY) -m eval report
card: $(READY)  ## cards of the sets and finished adapters in Hugging Face's format: data/README.md …
	@$(PY) -m experiments card
recipes: $(READY)  ## render llamafactory_configs/<model>/*.yaml from the table of backbones
	@$(PY) -m training render

include plans.mk

test: test-unit $(SERVE_READY)  ## all tests, the slow ones too
	$(PY) -m pytest -m slow
# A file's tests stay together: they share what its fixtures make.
test-unit: $(READY) $(SCALE_READY)  ## the fast, offline tests
	@$(MAKE) --no-print-directory model MODEL=smollm2-135m
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile
lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
bench:  ## speed figures as JSON (ESCONV=path for the full corpus)
	@$(MAKE) --no-print-directory --silent model setup-serve MODEL=smollm2-135m >&2
	@$(PY) -m experiments bench
clean:  ## delete demo/ and caches; data/, saves/, runs/, models/ and environments stay
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
