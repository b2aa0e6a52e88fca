"""Predictions over HTTP, with what can go wrong: every mistake is one line, and nothing is lost."""

import shutil

import pytest
from faulty_server import SERVER_ERROR, TOO_LONG, TRUNCATED
from predicted import error

from data_builders import leaks
from esc import cli, files, paths
from esc.dialogue import gold_turns
from esc.paths import Lineage
from eval import metrics, predict

MODEL = "smollm2-135m"


@pytest.fixture
def work(sample_work, tmp_path):
    shutil.copytree(sample_work / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def predicted(work, server, step, model):
    """Exit code, stdout and stderr of a run on two dialogues."""
    server.models = ("base",)

    def call(*options, system="decoupled_base", at=server.url):
        argv = ["--work", work, "--limit", "2", "--system", *system.split()]
        return step(predict.main, *argv, *(("--base-url", at) if at else ()), *options)

    return call


@pytest.fixture
def folder(work):
    return work / "runs" / MODEL / "decoupled_base"


def records(folder):
    return list(files.read_jsonl(folder / "predictions.jsonl"))


def test_every_turn_has_a_record_in_the_order_of_the_set_and_is_asked_once(
    predicted, work, folder, server
):
    code, out, _ = predicted()
    turns = gold_turns(work, "test", 2)
    assert code == 0 and "SMOKE" in out
    assert "sampling    temperature 0.7, top-p 0.95, seeded by the turn's id" in out
    assert [record["id"] for record in records(folder)] == [turn.id for turn in turns]
    facts = files.read_json(folder / "run.json")
    assert (facts["records"], facts["ok"], facts["failed"]) == (len(turns), len(turns), 0)
    before, asked = (folder / "predictions.jsonl").read_bytes(), len(server.log)
    code, out, _ = predicted()
    assert code == 0 and "nothing to do" in out and len(server.log) == asked
    # What was answered is not asked again, and other options are kept apart.
    code, _, err = predicted("--set", "validation", "--decode", "free", "--temperature", "0")
    assert code == 2
    for told in ("SET test -> validation", "TEMPERATURE 0.7 -> 0.0", "DECODE choice -> free"):
        assert told in error(err)
    assert predicted("--force")[0] == 0 and len(server.log) == asked
    assert (folder / "predictions.jsonl").read_bytes() == before
    assert predicted("--temperature", "0", "--force")[0] == 0 and len(server.log) > asked


def test_several_systems_are_predicted_by_one_call_as_each_would_be_alone(predicted, work):
    alone = {}
    for name in ("decoupled_base", "decoupled-gold_base"):
        assert predicted(system=name)[0] == 0
        path = work / "runs" / MODEL / name / "predictions.jsonl"
        alone[path] = path.read_bytes()
        shutil.rmtree(path.parent)
    assert predicted(system=" ".join(path.parent.name for path in alone))[0] == 0
    assert {path: path.read_bytes() for path in alone} == alone


@pytest.mark.parametrize(
    ("system", "options", "told"),
    [
        ("self-refine_sft vanilla_base", (), "SYSTEM=self-refine is a prompt on the base model"),
        ("vanilla_dpo_nothing", (), "SYSTEM=vanilla_dpo_nothing is none of"),
        ("decoupled", ("--round", "1"), "VARIANT and ROUND name a DPO training; use STAGE=dpo"),
        ("decoupled", ("--stage", "dpo", "--variant", "psnr"), "VARIANT=psnr is none of sp's"),
        ("vanilla_base", ("--temperature=-1",), "greater than or equal to 0"),
        ("vanilla_base", ("--limit", "9999"), "use a LIMIT of at most"),
    ],
)
def test_what_no_run_can_be_is_one_line_before_anybody_is_asked(
    predicted, work, server, system, options, told
):
    code, _, err = predicted(*options, system=system)
    assert code == 2 and told in error(err)
    assert server.log == [] and not (work / "runs").exists()


def test_a_turn_that_fails_is_counted_and_made_up_for_by_the_same_command(predicted, work, server):
    folder = work / "runs" / MODEL / "decoupled-gold_base"
    first, *_, last = gold_turns(work, "test", 2)
    server.always = {first.seeker: SERVER_ERROR, last.seeker: TOO_LONG}
    code, out, _ = predicted(system=folder.name)
    failed = {record["id"]: record for record in records(folder) if record["status"] == "failed"}
    assert code == 1 and not (folder / "run.json").exists()
    assert failed[first.id]["failure"]["kind"] == "server error"
    assert "server error" in out and "the same command asks again for what is missing" in out
    assert "context too long" in out and "--max-model-len" in out
    server.always, before = {}, len(server.chats())
    assert predicted(system=folder.name)[0] == 0
    assert len(server.chats()) == before + len(failed)
    assert {record["status"] for record in records(folder)} == {"ok"}


def test_other_prompts_are_another_run_and_no_adapter_is_named_with_its_command(
    predicted, tmp_path, monkeypatch
):
    named = ("--stage", "dpo", "--variant", "ipo", "--round", "2")
    err = error(predicted(*named, system="decoupled-gold", at="")[2])
    assert "rg_dpo_ipo_r2 holds no adapter" in err and "make dpo-rg" in err and "ROUND=2" in err
    predicted("--decode", "free", system="direct-refine")
    files.write_text(tmp_path / "prompts" / "direct_refine.j2", "Once more.")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path / "prompts"))
    assert "prompts " in error(predicted("--decode", "free", system="direct-refine")[2])
    files.write_text(tmp_path / "prompts" / "sp_system.j2", "Choose.")
    assert "other system prompts" in error(predicted()[2])


def test_a_plan_or_reply_that_is_not_as_asked_for_is_kept_and_counted(
    predicted, work, folder, server
):
    server.always = {gold_turns(work, "test", 2)[0].seeker: TRUNCATED}
    server.answer = lambda request: "<think>\n[Others]\n</think>\n\nHug them"
    code, out, _ = predicted("--decode", "free")
    cut, *others = records(folder)
    assert code == 0 and " 0 ok" in out and " with an answer cut at its length limit" in out
    assert cut["predicted_response"] == "half an ans"
    for record in others:
        assert (record["status"], record["predicted_strategy"]) == ("invalid", None)
        assert record["raw_strategy"] == record["predicted_response"] == "Hug them"
    # Where the strategies alone were allowed, it is the endpoint's fault.
    code, _, err = predicted("--force")
    assert code == 2 and "ignores the constraint" in error(err) and "DECODE=free" in error(err)


def test_a_dpo_training_has_its_own_folder_and_served_names(predicted, work, server):
    lineage = Lineage("ipo", 2)
    server.models = ("sp-dpo-ipo-r2", "rg-dpo-ipo-r2")
    named = ("--variant", "ipo", "--round", "2")
    assert predicted("--stage", "dpo", *named, system="decoupled")[0] == 0
    made = work / paths.run(MODEL, "decoupled", "dpo", lineage)
    assert [path.parent for path in (work / "runs").rglob("predictions.jsonl")] == [made]
    asked = {request.body["model"] for request in server.log if request.body}
    options = files.read_json(made / "options.json")
    assert asked == set(options["weights"]) == set(server.models)
    assert [options[name] for name in ("STAGE", "VARIANT", "ROUND")] == ["dpo", "ipo", 2]


def test_turns_that_an_adapter_was_trained_on_are_told_and_kept_with_the_run(
    predicted, work, server
):
    server.models = ("sp-sft", "rg-sft")
    sides = files.read_json(work / paths.DIALOGUES)
    seen = dict([next(iter(sides["test"].values())), *sides["train"].values()])
    files.write_json(work / paths.adapter(MODEL, "rg", "sft") / leaks.TRAINED_ON, seen)
    code, out, _ = predicted(
        "--stage", "sft", "--limit", str(len(sides["test"])), system="decoupled"
    )
    assert code == 0 and f"1 of {len(sides['test'])} tested dialogues are in the train set" in out
    folder = work / paths.run(MODEL, "decoupled", "sft")
    assert files.read_json(folder / "run.json")["seen"]["seen"] == 1
    assert cli.run(metrics.main, ["--work", str(work)]) == 0
    assert files.read_json(folder / "metrics.json")["seen"]["seen"] == 1


def test_in_the_dialogue_layout_the_gold_strategies_so_far_are_seen_and_the_numbers_say_so(
    predicted, work, server, step
):
    assert predicted("--layout", "dialogue")[0] == 0
    folder = work / paths.run(MODEL, "decoupled", "base", Lineage(layout="dialogue"))
    assert folder.name == "decoupled_base_dialogue"
    turns = gold_turns(work, "test", 2)
    for turn in turns:
        said = [
            one.strategy.value for one in turns if one.id.split("-")[0] == turn.id.split("-")[0]
        ]
        planned = [
            [one["content"] for one in chat.body["messages"] if one["role"] == "assistant"]
            for chat in server.chats()
            if "Answer with the name" in chat.body["messages"][0]["content"]
        ]
        assert said[: len(turn.history)] in planned
    assert step(metrics.main, "--work", work)[0] == 0
    found = files.read_json(folder / "metrics.json")
    for number in (found["strategy"]["bias"], found["text"]["paper"]["f1"]):
        assert "|layout:dialogue, gold strategies so far|" in number["signature"]
    assert "layout:" not in found["baselines"]["gold"]["strategy"]["bias"]["signature"]


def test_a_layout_of_a_name_or_a_variable_is_the_same_and_the_entangled_model_has_one():
    of = predict.system_of
    assert of("decoupled_sft_dialogue", None, None, None) == of(
        "decoupled_sft", *[None] * 3, "dialogue"
    )
    assert of("vanilla_sft", None, None, None, "dialogue")[2] == Lineage()
