import pytest

from esc import files
from esc.exceptions import EscError
from esc.step import OPTIONS, RunFolder

OURS = {"step": "judge", "JUDGE": "a-judge", "JUDGE_N": 2}


@pytest.mark.parametrize("there", [None, OURS | {"JUDGE_N": 3}])
def test_a_folder_without_options_or_with_this_steps_is_its_own(tmp_path, there):
    if there:
        files.write_json(tmp_path / OPTIONS, there)
    RunFolder(tmp_path, OURS, "scores.jsonl").check_own()


@pytest.mark.parametrize("there", [OURS | {"step": "pairwise"}, {"SYSTEM": "vanilla"}, [], {}])
def test_a_folder_with_another_steps_options_is_not(tmp_path, there):
    files.write_json(tmp_path / OPTIONS, there)
    with pytest.raises(EscError, match=r"is the folder of another step|not a JSON object"):
        RunFolder(tmp_path, OURS, "scores.jsonl").check_own()
