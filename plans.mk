# The orders of `make demo` and `make reproduce`. A step is a target that users call, its variant behind an
# @. What fails is gone round, and the same command goes on. $(STEPS) has each step's state and seconds.
SFT := sft-sp sft-rg sft-vanilla
DPO := dpo-sp dpo-rg dpo-vanilla
MIXES := nsnr nsnr_psnr nsnr_nspr psnr
# The demo has one mining, and one server for predictions and judge: it spares three starts.
DEMO := model data check-data stats $(SFT) mine $(DPO) serve predict eval stop report
MINE := mine-sp mine-rg mine-vanilla
REPRODUCE := model data check-data stats $(SFT) $(MINE) $(DPO) $(MIXES:%=dpo-vanilla@%) predict eval report
LOOP := vanilla_base vanilla_sft vanilla_dpo decoupled_base decoupled_sft decoupled_dpo \
  decoupled-gold_sft decoupled-gold_dpo
SYSTEMS_OF_PAPER := $(LOOP) direct-refine_base self-refine_base emotional-cot_base $(MIXES:%=vanilla_dpo_%)

# The embedded model learns from few rows, at a rate that moves it: a row takes seconds on two cores.
SMOKE := num_train_epochs=1.0 gradient_accumulation_steps=2 learning_rate=5.0e-4 warmup_steps=0
FEW = $(if $(and $(filter smollm2-135m,$(MODEL)),$(LIMIT)),$(SMOKE) max_samples=$(shell expr 4 \* $(LIMIT)))
ARGS = $(or $(TRAIN_ARGS),$(FEW))

# What a step's own call may be given, and a plan sets by itself.
ALONE := SYSTEM= STAGE= ROUND= SET= TASK= BLIND= JUDGE2= MODELS= BATCH= JUDGE_BATCH= DRY_RUN= VARIANT=
STEPS = $(WORK)/runs/$(MODEL)/steps.tsv
PLAN = $(MAKE) --no-print-directory --keep-going $(ALONE)
TOLD = ended=$$?; $(PY) -m experiments summary; exit $$ended
demo: $(READY) $(SERVE_READY)  ## the whole loop in small: data, SFT, mining, DPO, predictions, report; in demo/
	@export WORK=demo MODEL=smollm2-135m; trap '$(PY) -m serving stop' EXIT; trap 'exit 130' INT TERM; \
	  $(PLAN) $(DEMO:%=step/%) WORK=demo MODEL=smollm2-135m LIMIT=1 PORT=0 HOST= SERVE_ARGS= BASE_URL= \
	  ESCONV="$(or $(ESCONV),sample)" SYSTEMS="$(LOOP)" SAMPLES=1 MINING_JUDGE=random JUDGE= JUDGE_BASE_URL= \
	  JUDGE_N=1 TRAIN_ARGS="$(SMOKE) max_samples=4"; $(TOLD)
reproduce: $(READY) $(if $(DRY_RUN),,$(SERVE_READY))  ## the paper's whole experiment; DRY_RUN=1 shows plan and costs
	@export SYSTEMS="$(SYSTEMS_OF_PAPER)" TRAIN_ARGS="$(ARGS)"; $(if $(DRY_RUN),STEPS="$(REPRODUCE)" \
	$(PY) -m experiments estimate, $(PLAN) $(REPRODUCE:%=step/%) SYSTEMS="$$SYSTEMS" TRAIN_ARGS="$(ARGS)"; $(TOLD))

# A mining that no pair came out of, or none of a mix: there is nothing to train, and that is no failure.
OF = $(word $(1),$(subst -, ,$(subst @, ,$*)))
LAID = $(if $(filter-out vanilla,$(call OF,2)),$(filter _dialogue,_$(LAYOUT)))
PAIRS = $(WORK)/data/esc_$(call OF,2)_dpo_$(MODEL)$(LAID)
NO_PAIRS = [ -f "$(WORK)/runs/$(MODEL)/mining$(LAID)/$(call OF,2)/routed/no_pairs.json" ] || \
  { [ -f "$(PAIRS).manifest.json" ] && ! [ -f "$(PAIRS)$(addprefix _,$(call OF,3)).jsonl" ]; }
step/%:
	@printf '\n=== %s\n' "$*"; mkdir -p "$(dir $(STEPS))"; begin=$$(date +%s); state=done; ended=0; \
	if [ $(call OF,1) = dpo ] && { $(NO_PAIRS); }; then state='not run (0 pairs)'; else \
	$(MAKE) --no-print-directory $(word 1,$(subst @, ,$*)) VARIANT=$(word 2,$(subst @, ,$*)) PLANNED=1 \
	  $(if $(filter sft-sp sft-rg,$*),,PACK=) $(if $(filter mine,$*),$(MINING_JUDGE:%=JUDGE=%)) || { ended=$$?; state=failed; }; fi; \
	printf '%s\t%s\t%s\n' "$*" "$$state" $$(($$(date +%s) - begin)) >> "$(STEPS)"; exit $$ended
