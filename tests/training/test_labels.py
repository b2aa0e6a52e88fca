"""What LLaMA-Factory really trains on: its own loader, decoded."""

import json
import sys

import pytest
import yaml

from esc import files, paths
from esc.strategies import parse
from training import recipes, train

IGNORED = -100


@pytest.fixture(scope="module")
def trained_on(model, sample_work, tmp_path_factory):
    """A function from a task to [(row, list of the decoded spans that carry the loss)]."""

    def of(task):
        from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
        from llamafactory.hparams import get_train_args
        from llamafactory.model import load_tokenizer

        scratch = tmp_path_factory.mktemp(task)
        recipe = yaml.safe_load(paths.recipe("smollm2-135m", task, "sft").read_text())
        changed = {
            "model_name_or_path": str(model),
            "dataset_dir": str(sample_work),
            "output_dir": str(scratch / "out"),
            "cache_dir": str(scratch / "cache"),
        }
        model_args, data_args, training_args, _, _ = get_train_args(recipe | changed)
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        template = get_template_and_fix_tokenizer(tokenizer, data_args)
        loaded = get_dataset(
            template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer
        )
        rows = list(files.read_jsonl(sample_work / paths.sft_file(task, "train")))
        seen = list(loaded["train_dataset"])
        return [
            (row, spans(example["labels"], tokenizer))
            for row, example in zip(rows, seen, strict=True)
        ]

    return of


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


def test_the_planner_learns_the_strategy_alone(trained_on):
    for row, learned in trained_on("sp"):
        assert learned == [row["output"]]
        assert parse(learned[0]) is not None


def test_the_generator_learns_the_last_reply_alone(trained_on):
    examples = trained_on("rg")
    assert any(row["history"] for row, _ in examples)
    for row, learned in examples:
        assert learned == [row["output"]]


def test_the_entangled_model_learns_every_tagged_reply(trained_on):
    for row, learned in trained_on("vanilla"):
        replies = [m["value"] for m in row["conversations"] if m["from"] == "gpt"]
        assert learned == replies and len(replies) > 1
        assert all(reply.startswith("[") for reply in replies)


LABELS = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
for given in map(json.loads, sys.argv[1:]):
    model_args, data_args, training_args, _, _ = get_train_args(given)
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    loaded = get_dataset(template, model_args, data_args, training_args, "sft", tokenizer=tokenizer)
    for row in loaded["train_dataset"]:
        learned = [i for i, label in enumerate(row["labels"]) if label != -100]
        text = tokenizer.decode([row["labels"][i] for i in learned])
        whole = learned[-1] - learned[0] + 1 == len(learned)
        print("learned", json.dumps([given["template"], whole, text]))
"""


ANSWERS = {"gemma2": "{}<end_of_turn>\n<|im_end|>", "chatglm3": "\n{}<|im_end|>"}


@pytest.fixture(scope="module")
def mended(run, model, sample_work, tmp_path_factory):
    """[template, whether what is learned is one run, its text] of each row, in one trainer."""
    scratch = tmp_path_factory.mktemp("mended")
    asked = recipes.Training("gemma2-9b", "rg", "sft", sample_work, 1, ())
    settings = recipes.recipe_for(asked)
    environment = train.environment(asked, settings)
    settings |= {"model_name_or_path": str(model), "eval_strategy": "no"}
    settings |= {"output_dir": str(scratch / "out"), "cache_dir": str(scratch / "cache")}
    settings |= {"bf16": False, "use_cpu": True, "preprocessing_num_workers": 2}
    del settings["eval_dataset"]
    given = [json.dumps(settings | {"template": template}) for template in ANSWERS]
    shown = run(sys.executable, "-c", LABELS, *given, PYTHONPATH=environment["PYTHONPATH"])
    assert shown.returncode == 0, shown.stderr[-2000:]
    told = (line.partition(" ") for line in shown.stdout.splitlines())
    return [json.loads(found) for word, _, found in told if word == "learned"]


@pytest.mark.parametrize(("template", "answer"), ANSWERS.items())
def test_a_template_with_an_end_token_of_its_own_learns_the_last_reply_alone(
    mended, sample_work, template, answer
):
    rows = list(files.read_jsonl(sample_work / paths.sft_file("rg", "train")))
    assert any(len(row["history"]) > 1 for row in rows)
    learned = [found for found in mended if found[0] == template]
    assert learned == [[template, True, answer.format(row["output"])] for row in rows]
