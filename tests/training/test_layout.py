"""The dialogue layout and packed rows learn what the turn layout learns, and see no more."""

import json

import pytest
import torch
from trained import MODEL, training

from data_builders import build
from esc import adapters, backbones, cli, files, paths, plan_and_speak, prompts
from esc.backbones import CUTOFF
from esc.dialogue import Turn, gold_turns
from esc.files import EscError
from esc.paths import DIALOGUE, EMBEDDED, LAYOUTS, Lineage
from esc.strategies import Strategy
from training import recipes

IGNORED = -100
LAST = "<|im_end|>"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The sets of two dialogues of each side of the sample corpus."""
    work = tmp_path_factory.mktemp("layout")
    build.build("sample", work, build.BuildOptions(limit=2))
    return work


@pytest.fixture(scope="module")
def loaded(small, model, tmp_path_factory):
    """From task and layout to (the rows as LLaMA-Factory batches them, its tokenizer)."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    def call(task, layout="turn", **changed):
        scratch = tmp_path_factory.mktemp("loaded")
        asked = training(small, task=task, stage="sft", layout=layout)
        settings = recipes.recipe_for(asked) | changed
        settings |= {"model_name_or_path": str(model), "bf16": False}
        settings |= {"output_dir": str(scratch / "out"), "cache_dir": str(scratch / "cache")}
        model_args, data_args, arguments, _, _ = get_train_args(settings)
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        template = get_template_and_fix_tokenizer(tokenizer, data_args)
        of = (template, model_args, data_args, arguments, "sft")
        return list(get_dataset(*of, tokenizer=tokenizer)["train_dataset"]), tokenizer

    return call


def spans(row):
    """(place of its first token, tokens) of each run of labels that carries the loss."""
    found, run = [], []
    for place, label in enumerate([*row["labels"], IGNORED]):
        if label != IGNORED:
            run.append(label)
        elif run:
            found.append((place - len(run), run))
            run = []
    return found


@pytest.mark.parametrize("task", ["sp", "rg"])
def test_both_layouts_learn_the_same_tokens_each_once(loaded, small, task):
    learned = {}
    for layout in LAYOUTS:
        rows, tokenizer = loaded(task, layout)
        learned[layout] = [tokens for row in rows for _, tokens in spans(row)]
    assert learned["turn"] == learned["dialogue"]
    turns = gold_turns(small, "train", None)
    answers = [turn.strategy.value if task == "sp" else turn.response for turn in turns]
    said = [tokenizer.decode(one).strip().removesuffix(LAST) for one in learned["dialogue"]]
    assert said == answers and len(rows) == 2


@pytest.mark.parametrize("task", ["sp", "rg"])
def test_before_an_answer_of_a_dialogue_stands_all_that_came_before_and_nothing_later(
    loaded, small, task
):
    rows, tokenizer = loaded(task, DIALOGUE)
    every = gold_turns(small, "train", None)
    turns = iter(enumerate(every, start=1))
    for row in rows:
        for start, _ in spans(row):
            count, turn = next(turns)
            before = tokenizer.decode(row["input_ids"][:start])
            for said, reply in turn.history:
                assert said.strip() in before and (task == "sp" or reply in before)
            assert turn.seeker.strip() in before
            assert task == "rg" or before.count("supporter: ") == len(turn.history)
            of_reply = before.rpartition("Strategy of this reply: ")[2]
            assert task == "sp" or of_reply.startswith(f"{turn.strategy}.")
            later = [turn, *every[count:]]
            assert not [
                one.id for one in later if len(one.response) > 40 and one.response in before
            ]


@pytest.mark.slow
def test_no_later_token_of_a_dialogue_reaches_the_loss_of_a_turn(loaded, model):
    from transformers import AutoModelForCausalLM

    rows, _ = loaded("rg", DIALOGUE)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    row = min(rows, key=lambda one: len(one["input_ids"]))
    (start, tokens), *_, (later, _) = spans(row)
    ids = torch.tensor([row["input_ids"]])
    changed = ids.clone()
    changed[0, later:] = 5
    with torch.inference_mode():
        here = slice(start - 1, start + len(tokens))
        both = [policy(input_ids=one).logits[0, here] for one in (ids, changed)]
    assert torch.equal(*both)


@pytest.mark.slow
def test_each_row_of_a_pack_sees_only_itself_and_none_is_dropped(loaded, model):
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoModelForCausalLM

    rows, tokenizer = loaded("rg")
    packs, _ = loaded("rg", neat_packing=True, cutoff_len=1024)
    fitting = sorted(tuple(row["input_ids"]) for row in rows if len(row["input_ids"]) <= 1024)
    held = []
    for pack in packs:
        marks = torch.tensor(pack["attention_mask"])
        for mark in range(1, int(marks.max()) + 1):
            places = (marks == mark).nonzero().flatten().tolist()
            held.append(tuple(pack["input_ids"][k] for k in places))
            assert [pack["position_ids"][k] for k in places] == list(range(len(places)))
    assert sorted(held) == fitting and len(packs) < len(fitting)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="default"))
    how = {"block_diag_attn": True, "attn_implementation": "sdpa", "compute_dtype": torch.float32}
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, tokenizer=tokenizer, neat_packing=True, model=policy, **how
    )
    pack = max(packs, key=lambda one: max(one["attention_mask"]))
    features = {k: pack[k] for k in ("input_ids", "attention_mask", "position_ids", "labels")}
    batch = collate([features | {"images": None, "videos": None, "audios": None}])
    marks = torch.tensor(pack["attention_mask"])
    with torch.inference_mode():
        of = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        together = policy(**of).logits[0]
        for mark in (1, 2):
            places = (marks == mark).nonzero().flatten()
            alone = policy(input_ids=batch["input_ids"][:, places]).logits[0]
            assert torch.allclose(together[places], alone, atol=1e-3)


def test_a_dialogue_too_long_for_a_row_goes_on_in_another_from_a_turn_on(small, monkeypatch):
    turns = [one for one in gold_turns(small, "train", None) if one.id.startswith(first(small))]
    monkeypatch.setattr(build, "CUTOFF", 200)
    rows = list(build.dialogue_rows("rg", turns, {}))
    replies = [m["value"] for row in rows for m in row["conversations"] if m["from"] == "gpt"]
    assert replies == [turn.response for turn in turns] and len(rows) > 1
    assert rows[0]["id"] == first(small)
    assert all("-" in row["id"] for row in rows[1:])


def test_no_row_of_short_turns_is_longer_than_the_cutoff_in_any_script():
    backbone = backbones.get(EMBEDDED)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    for words in (
        "I can not sleep at night. ",
        "我晚上睡不着，心里很难受。",
        "Я не могу спать по ночам. ",
    ):
        turns = [turn_of(place, words * 12) for place in range(80)]
        rows = list(build.dialogue_rows("rg", turns, {}))
        assert len(rows) > 1
        for row in rows:
            names = {"human": "user", "gpt": "assistant"}
            said = [
                {"role": names[one["from"]], "content": one["value"]}
                for one in row["conversations"]
            ]
            pairs = template.encode_multiturn(tokenizer, said, row["system"])
            assert sum(len(prompt) + len(answer) for prompt, answer in pairs) <= CUTOFF


def turn_of(place, words):
    return Turn(f"0-{place}", words, Strategy.QUESTION, words)


def first(work):
    return gold_turns(work, "train", None)[0].id.partition("-")[0]


def test_a_models_own_plans_stand_where_gold_ones_stood():
    history, before = [("hi", "hello"), ("bad", "why?")], [Strategy.QUESTION, None]
    system, *said = plan_and_speak.rg_chat(history, "so", Strategy.INFORMATION, before)
    assert system.content == prompts.rg_system_dialogue()
    lines = [one.content.splitlines()[-1] for one in said if one.role == "user"]
    assert lines == [prompts.strategy_line(one) for one in ("Question", "Others", "Information")]
    _, *said = plan_and_speak.sp_chat(history, "so", before)
    assert [one.content for one in said] == [
        *("seeker: hi\n", "Question", "supporter: hello\nseeker: bad\n", "Others"),
        "supporter: why?\nseeker: so\n",
    ]


def test_the_recipe_of_dialogues_learns_every_reply_two_dialogues_a_step(small):
    recipe = recipes.recipe_for(training(small, task="rg", stage="sft", layout=DIALOGUE))
    assert "mask_history" not in recipe and recipe["dataset"] == "esc_rg_sft_dialogue"
    assert recipe["gradient_accumulation_steps"] == 2
    asked = training(small, task="rg", layout=DIALOGUE, variant="ipo")
    assert recipes.recipe_for(asked)["adapter_name_or_path"].endswith("rg_sft_dialogue")
    assert asked.output.name == "rg_dpo_dialogue_ipo" and asked.batch == 32


@pytest.mark.parametrize(
    ("model", "processes", "batch"), [("qwen2.5-7b", 2, 2), ("qwen2.5-72b", 8, 8)]
)
def test_of_many_gpus_two_learn_dialogues_or_as_many_as_hold_the_weights(
    small, model, processes, batch
):
    asked = training(small, stage="sft", layout=DIALOGUE, model=model, processes=8)
    assert (asked.here, asked.world, asked.batch) == (processes, processes, batch)
    assert recipes.recipe_for(asked)["gradient_accumulation_steps"] == 1


def test_packs_hold_about_the_papers_batch_and_are_of_turns_alone(small, capsys):
    recipe = recipes.recipe_for(training(small, stage="sft", pack=True))
    told = capsys.readouterr().out
    packs = recipe["gradient_accumulation_steps"]
    assert recipe["neat_packing"] is True and f"{packs} packs a step" in told and packs < 32
    for odd in ({"stage": "dpo"}, {"layout": DIALOGUE}, {"task": "vanilla"}):
        with pytest.raises(EscError, match="PACK=1 is of the SFT of planner and generator"):
            recipes.recipe_for(training(small, **({"stage": "sft", "pack": True} | odd)))


def test_pairs_of_one_layout_are_not_the_others(small):
    from data_builders.pairs import Mining

    folders = {Mining(small, MODEL, "rg", Lineage(layout=one)).folder for one in LAYOUTS}
    assert len(folders) == 2
    asked = training(small, task="rg", layout=DIALOGUE)
    assert asked.dataset == f"esc_rg_dpo_{MODEL}_dialogue"


def test_a_finished_table_of_the_experiment_needs_no_training(tmp_path, capsys, monkeypatch):
    from experiments import layout

    told = {"task": "rg", "model": "base, turn", "nats": 3.1, "gain": 0.0}
    monkeypatch.setattr(layout, "rows", lambda *_: iter([told]))
    argv = ["--esconv", "sample", "--work", str(tmp_path)]
    assert cli.run(layout.main, argv) == 0
    assert json.loads((tmp_path / "layout.json").read_text())["rows"] == [told]
    assert "base, turn" in capsys.readouterr().out


def test_rows_of_both_layouts_are_in_the_manifest_and_of_the_same_turns(small):
    sets = files.read_json(small / paths.MANIFEST)["sets"]
    assert {name for name in sets if "_dialogue" in name} == {
        paths.sft_file(task, side, DIALOGUE) for task in ("sp", "rg") for side in paths.SPLITS
    }
