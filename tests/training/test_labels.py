"""What LLaMA-Factory really trains on: its own loader, decoded."""

import json
import sys

import yaml

from esc import files, paths
from esc.strategies import parse
from training import recipes, train

IGNORED = -100


def learned(work, model, task, scratch):
    """[(row, list of the decoded spans that carry the loss)] of a task's train set."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    recipe = yaml.safe_load(paths.recipe("smollm2-135m", task, "sft").read_text())
    changed = {
        "model_name_or_path": str(model),
        "dataset_dir": str(work),
        "output_dir": str(scratch / "out"),
        "cache_dir": str(scratch / "cache"),
    }
    model_args, data_args, training_args, _, _ = get_train_args(recipe | changed)
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    loaded = get_dataset(template, model_args, data_args, training_args, "sft", tokenizer=tokenizer)
    rows = list(files.read_jsonl(work / paths.sft_file(task, "train")))
    pairs = zip(rows, loaded["train_dataset"], strict=True)
    return [(row, spans(example["labels"], tokenizer)) for row, example in pairs]


def spans(labels, tokenizer):
    """The decoded runs of labels that are not ignored; each ends with the end of its turn."""
    runs, run = [], []
    for label in [*labels, IGNORED]:
        if label != IGNORED:
            run.append(label)
        elif run:
            text = tokenizer.decode(run).removesuffix("\n")
            assert text.endswith("<|im_end|>")
            runs.append(text.removesuffix("<|im_end|>"))
            run = []
    return runs


def test_planner_and_generator_learn_their_last_answer_alone(sample_work, model, tmp_path):
    for task in ("sp", "rg"):
        examples = learned(sample_work, model, task, tmp_path / task)
        assert all(spans == [row["output"]] for row, spans in examples)
        if task == "sp":
            assert all(parse(row["output"]) for row, _ in examples)
        else:
            assert any(row["history"] for row, _ in examples)


def test_the_entangled_model_learns_every_tagged_reply(sample_work, model, tmp_path):
    for row, spans in learned(sample_work, model, "vanilla", tmp_path):
        replies = [m["value"] for m in row["conversations"] if m["from"] == "gpt"]
        assert spans == replies and len(replies) > 1
        assert all(reply.startswith("[") for reply in replies)


LABELS = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
model_args, data_args, training_args, _, _ = get_train_args(json.loads(sys.argv[1]))
tokenizer = load_tokenizer(model_args)["tokenizer"]
template = get_template_and_fix_tokenizer(tokenizer, data_args)
loaded = get_dataset(template, model_args, data_args, training_args, "sft", tokenizer=tokenizer)
for row in loaded["train_dataset"]:
    learned = [i for i, label in enumerate(row["labels"]) if label != -100]
    text = tokenizer.decode([row["labels"][i] for i in learned])
    print("learned", json.dumps([learned[-1] - learned[0] + 1 == len(learned), text]))
"""


def test_a_template_with_an_end_token_of_its_own_learns_the_last_reply_alone(
    run, model, sample_work, tmp_path
):
    asked = recipes.Training("gemma2-9b", "rg", "sft", sample_work)
    settings = recipes.recipe_for(asked)
    environment = train.environment(asked, settings)
    settings |= {"model_name_or_path": str(model), "eval_strategy": "no", "bf16": False}
    settings |= {"output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
    settings |= {"use_cpu": True, "preprocessing_num_workers": 1}
    del settings["eval_dataset"]
    command = (sys.executable, "-c", LABELS, json.dumps(settings))
    shown = run(*command, PYTHONPATH=environment["PYTHONPATH"])
    assert shown.returncode == 0, shown.stderr[-2000:]
    told = (line.partition(" ") for line in shown.stdout.splitlines())
    found = [json.loads(said) for word, _, said in told if word == "learned"]
    rows = list(files.read_jsonl(sample_work / paths.sft_file("rg", "train")))
    assert any(len(row["history"]) > 1 for row in rows)
    assert found == [[True, f"{row['output']}<end_of_turn>\n<|im_end|>"] for row in rows]
