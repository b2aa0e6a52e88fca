"""What LLaMA-Factory really trains on: its own loader, decoded."""

from importlib.util import module_from_spec, spec_from_file_location

import pytest
from trained import training

from esc import files, paths
from esc.prompts import TASKS
from esc.strategies import parse
from training import recipes

IGNORED = -100


def learned(work, weights, task, scratch, **of):
    """[(row, list of the decoded spans that carry the loss)] of a task's train set."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    settings = recipes.recipe_for(training(work, task=task, stage="sft", **of))
    settings |= {"model_name_or_path": str(weights), "preprocessing_num_workers": 1}
    settings |= {"output_dir": str(scratch / "out"), "cache_dir": str(scratch / "cache")}
    settings |= {"use_cpu": True, "bf16": False, "eval_dataset": None, "eval_strategy": "no"}
    model_args, data_args, training_args, _, _ = get_train_args(settings)
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


@pytest.mark.parametrize("task", TASKS)
def test_planner_and_generator_learn_their_last_answer_alone_and_the_entangled_model_every_reply(
    sample_work, model, tmp_path, task
):
    examples = learned(sample_work, model, task, tmp_path)
    for row, spans in examples:
        if task == "vanilla":
            replies = [m["value"] for m in row["conversations"] if m["from"] == "gpt"]
            assert spans == replies and len(replies) > 1
            assert all(reply.startswith("[") for reply in replies)
        else:
            assert spans == [row["output"]] and (task == "rg" or parse(row["output"]))
    assert task != "rg" or any(row["history"] for row, _ in examples)


def test_a_template_with_an_end_token_of_its_own_learns_the_last_reply_alone(
    model, sample_work, tmp_path, monkeypatch
):
    from llamafactory.data.processor import supervised

    spec = spec_from_file_location("mends", paths.IN_LLAMAFACTORY / "sitecustomize.py")
    mends = module_from_spec(spec)
    monkeypatch.setattr("sys.meta_path", [])
    spec.loader.exec_module(mends)
    monkeypatch.undo()
    processor = supervised.SupervisedDatasetProcessor
    # Undone after the test.
    monkeypatch.setattr(processor, "_encode_data_example", processor._encode_data_example)
    mends._mask_all_before_the_last_reply(supervised)
    found = learned(sample_work, model, "rg", tmp_path, model="gemma2-9b")
    assert any(len(row["history"]) > 1 for row, _ in found)
    assert all(spans == [f"{row['output']}<end_of_turn>\n"] for row, spans in found)
