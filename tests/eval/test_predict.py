"""Predictions over HTTP, with what can go wrong: every mistake is one line, and nothing is lost."""

import json
import shutil

import pytest
from faulty_server import SERVER_ERROR, TOO_LONG, TRUNCATED, FaultyServer

from esc import cli, files, paths
from esc.dialogue import gold_turns
from esc.paths import Lineage
from eval import predict

MODEL = "smollm2-135m"
SAMPLED = "sampling    temperature 0.7, top-p 0.95, seeded by the turn's id"


@pytest.fixture
def work(sample_work, tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("esc.llm.USUAL", 0.01)
    shutil.copytree(sample_work / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def server():
    with FaultyServer(models=("base",)) as server:
        yield server


@pytest.fixture
def run_predict(work, server, capsys, model):
    """Exit code, stdout and stderr of a run on two dialogues."""

    def call(*options, system="decoupled_base"):
        argv = ["--work", str(work), "--limit", "2", "--system", *system.split()]
        code = cli.run(predict.main, [*argv, "--base-url", server.url, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def folder(work, name="decoupled_base"):
    return work / "runs" / MODEL / name


def records(work, name="decoupled_base"):
    return list(files.read_jsonl(folder(work, name) / "predictions.jsonl"))


def error(err):
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    return line


def test_every_turn_has_a_record_in_the_order_of_the_set_and_is_asked_once(
    run_predict, work, server
):
    code, out, _ = run_predict()
    turns = gold_turns(work, "test", 2)
    assert code == 0 and "SMOKE" in out and SAMPLED in out
    assert [record["id"] for record in records(work)] == [turn.id for turn in turns]
    facts = files.read_json(folder(work) / "run.json")
    assert (facts["records"], facts["ok"], facts["failed"]) == (len(turns), len(turns), 0)
    before, asked = (folder(work) / "predictions.jsonl").read_bytes(), len(server.log)
    code, out, _ = run_predict()
    assert code == 0 and "nothing to do" in out and len(server.log) == asked
    assert (folder(work) / "predictions.jsonl").read_bytes() == before


def test_several_systems_are_predicted_by_one_call_as_each_would_be_alone(run_predict, work):
    alone = {}
    for name in ("decoupled_base", "decoupled-gold_base"):
        assert run_predict(system=name)[0] == 0
        alone[name] = (folder(work, name) / "predictions.jsonl").read_bytes()
        shutil.rmtree(folder(work, name))
    assert run_predict(system=" ".join(alone))[0] == 0
    for name, content in alone.items():
        assert (folder(work, name) / "predictions.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("system", "options", "told"),
    [
        ("self-refine_sft vanilla_base", (), "SYSTEM=self-refine is a prompt on the base model"),
        ("vanilla_dpo_nothing", (), "SYSTEM=vanilla_dpo_nothing is none of"),
        ("vanilla_r2", (), "SYSTEM=vanilla_r2 is none of"),
        ("decoupled", ("--round", "1"), "VARIANT and ROUND name a DPO training; use STAGE=dpo"),
        ("vanilla", ("--stage", "base", "--variant", "ipo"), "name a DPO training; use STAGE=dpo"),
        ("decoupled", ("--stage", "dpo", "--variant", "psnr"), "VARIANT=psnr is none of sp's"),
        ("vanilla_base", ("--temperature", "nan"), "'nan' is not a number of at least 0"),
        ("vanilla_base", ("--temperature=-1",), "'-1' is not a number of at least 0"),
        ("vanilla_base", ("--limit", "9999"), "use a LIMIT of at most"),
    ],
)
def test_what_no_run_can_be_is_one_line_before_anybody_is_asked(
    run_predict, work, server, system, options, told
):
    code, _, err = run_predict(*options, system=system)
    assert code == 2 and told in error(err)
    assert server.log == [] and not (work / "runs").exists()


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("--stage", "sft"), ["make sft-rg"]),
        (("--stage", "dpo", "--variant", "ipo", "--round", "2"),
         ["rg_dpo_ipo_r2 holds no adapter", "make dpo-rg", "VARIANT=ipo", "ROUND=2"]),
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_trained_is_named_with_its_command(work, capsys, model, named, told):
    argv = ["--work", str(work), "--system", "decoupled-gold", "--limit", "1"]
    assert cli.run(predict.main, [*argv, *named]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in told) and f"WORK={work}" in err


def test_a_turn_that_fails_is_counted_and_made_up_for_by_the_same_command(
    run_predict, work, server
):
    name = "decoupled-gold_base"
    turn = gold_turns(work, "test", 2)[0]
    server.always = {turn.seeker: SERVER_ERROR}
    code, out, _ = run_predict(system=name)
    failed = [record for record in records(work, name) if record["status"] == "failed"]
    assert code == 1 and turn.id in [record["id"] for record in failed]
    assert failed[0]["failure"]["kind"] == "server error"
    assert f"{len(failed)} server error; the same command asks again" in out
    assert not (folder(work, name) / "run.json").exists()
    server.always, before = {}, len(server.chats())
    code, out, _ = run_predict(system=name)
    assert code == 0 and len(server.chats()) == before + len(failed)
    assert {record["status"] for record in records(work, name)} == {"ok"}


def test_a_context_too_long_fails_alone_and_a_truncated_reply_is_kept(run_predict, work, server):
    name = "decoupled-gold_base"
    first, *_, last = gold_turns(work, "test", 2)
    server.always = {last.seeker: TOO_LONG, first.seeker: TRUNCATED}
    code, out, _ = run_predict(system=name)
    assert code == 1 and "context too long" in out and "--max-model-len" in out
    assert " with an answer cut at its length limit" in out
    assert records(work, name)[0]["predicted_response"] == "half an ans"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--set", "validation", "--limit", "1"), "SET test -> validation"),
        (("--decode", "free", "--temperature", "0"), "TEMPERATURE 0.7 -> 0.0"),
    ],
)
def test_predictions_of_other_options_are_kept_and_named_unless_forced(
    run_predict, work, server, options, told
):
    run_predict()
    before = (folder(work) / "predictions.jsonl").read_bytes()
    code, _, err = run_predict(*options)
    assert code == 2 and told in error(err)
    assert "WORK=" in error(err) and "FORCE=1" in error(err)
    assert (folder(work) / "predictions.jsonl").read_bytes() == before
    assert run_predict(*options, "--force")[0] == 0
    asked = len(server.chats())
    # What was answered is not asked again.
    assert run_predict("--force")[0] == 0 and len(server.chats()) == asked
    assert (folder(work) / "predictions.jsonl").read_bytes() == before


def test_other_prompts_are_another_run(run_predict, work, tmp_path, monkeypatch):
    options = ("--decode", "free")
    run_predict(*options, system="direct-refine")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "direct_refine.j2").write_text("Once more.")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path / "prompts"))
    code, _, err = run_predict(*options, system="direct-refine")
    assert code == 2 and "prompts " in error(err)
    (tmp_path / "prompts" / "sp_system.j2").write_text("Choose.")
    code, _, err = run_predict()
    assert code == 2 and "other system prompts" in error(err) and "PROMPTS_DIR" in error(err)


def test_a_turn_without_a_readable_plan_is_invalid_and_has_a_reply(run_predict, work, server):
    server.answer = lambda request: "<think>\n[Others]\n</think>\n\nHug them"
    code, out, _ = run_predict("--decode", "free")
    assert code == 0 and " 0 ok" in out
    for record in records(work):
        assert (record["status"], record["predicted_strategy"]) == ("invalid", None)
        assert record["raw_strategy"] == record["predicted_response"] == "Hug them"


def test_an_endpoint_that_ignores_the_choice_stops_the_run(run_predict, work, server):
    server.answer = lambda request: "Hello there"
    code, _, err = run_predict()
    assert code == 2 and "ignores the constraint" in error(err) and "DECODE=free" in error(err)


@pytest.mark.parametrize(
    ("system", "named", "lineage", "models"),
    [
        ("decoupled", ("--variant", "ipo", "--round", "2"), Lineage("ipo", 2),
         {"sp-dpo-ipo-r2", "rg-dpo-ipo-r2"}),
        ("decoupled-gold", ("--round", "3"), Lineage(None, 3), {"rg-dpo-r3"}),
    ],
)  # fmt: skip
def test_a_dpo_training_has_its_own_folder_and_served_names(
    run_predict, work, server, system, named, lineage, models
):
    server.models = tuple(models)
    code, _, err = run_predict("--stage", "dpo", *named, system=system)
    assert code == 0, err
    made = work / paths.run(MODEL, system, "dpo", lineage)
    assert [path.parent for path in (work / "runs").rglob("predictions.jsonl")] == [made]
    assert {request.body["model"] for request in server.log if request.body} == models
    options = files.read_json(made / "options.json")
    found = options["STAGE"], options["VARIANT"], options["ROUND"]
    assert found == ("dpo", lineage.variant, lineage.round) and set(options["weights"]) == models
    header, first, *_ = (made / "calls.jsonl").read_text().splitlines()
    stored = {"model": MODEL, "system": system, "stage": f"dpo{lineage.suffix}"}
    assert json.loads(header) == {"calls of": stored}
    assert json.loads(first)["record"] in [turn.id for turn in gold_turns(work, "test", 2)]
