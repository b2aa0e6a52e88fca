"""A planner of the tutoring example, with its own strategies, errors, mapping and split."""

import pytest

from data_builders import leaks
from esc import files, paths

AT = paths.ROOT / "examples" / "tutoring"


@pytest.mark.slow
def test_a_planner_is_trained_under_its_own_list_and_refused_under_another(run, tmp_path):
    lists = ("strategies", "errors", "mapping")
    given = {name.upper(): str(AT / f"{name}.yaml") for name in lists}
    given |= {"ESCONV": str(AT / "corpus.jsonl"), "WORK": str(tmp_path), "TASK": "sp"}
    given["TRAIN_ARGS"] = "max_steps=2 gradient_accumulation_steps=2 learning_rate=1.0e-3"
    assert "split    files" in run("-m", "data_builders", "build", **given).stdout
    trained = run("-m", "training", "train", **given)
    assert trained.returncode == 0, trained.stderr[-2000:]
    folder = tmp_path / paths.adapter("smollm2-135m", "sp", "sft")
    made = files.read_json(tmp_path / paths.MANIFEST)
    assert len(files.read_json(folder / leaks.TRAINED_ON)) == made["dialogues"]["train"] == 8
    del given["STRATEGIES"], given["ERRORS"]

    def refused():
        before = sorted(tmp_path.rglob("*"))
        shown = run("-m", "mining", "sample", **given)
        assert shown.returncode == 2 and sorted(tmp_path.rglob("*")) == before
        return shown.stderr

    assert "sp_sft was trained with other system prompts or strategies" in refused()
    given["ESCONV"] = "sample"
    del given["MAPPING"]
    assert run("-m", "data_builders", "build", **given).returncode == 0
    assert "sp_sft was trained with other system prompts or strategies" in refused()
