"""Predictions over HTTP, with what can go wrong: every mistake is one line, and nothing is lost."""

import json
import shutil

import pytest
from faulty_server import (
    NO_MODEL,
    NO_ROUTE,
    SERVER_ERROR,
    TOKENIZE,
    TOO_LONG,
    TRUNCATED,
    FaultyServer,
)

from esc import cli, files, paths
from esc.dialogue import gold_turns
from esc.paths import Lineage
from eval import predict

MODEL = "smollm2-135m"


@pytest.fixture
def work(sample_work, tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    shutil.copytree(sample_work / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def server():
    with FaultyServer(models=("base",)) as server:
        yield server


@pytest.fixture
def run_predict(work, server, capsys, model):
    """Exit code, stdout and stderr of a run on the base model."""

    def call(*options, system="decoupled", url=None):
        argv = ["--work", str(work), "--stage", "base", "--system", system, "--limit", "2"]
        code = cli.run(predict.main, [*argv, "--base-url", url or server.url, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def folder(work, system="decoupled"):
    return work / paths.run(MODEL, system, "base")


def records(work, system="decoupled"):
    return list(files.read_jsonl(folder(work, system) / "predictions.jsonl"))


def error(err):
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    return line


def test_every_turn_has_a_record_in_the_order_of_the_set(run_predict, work, server):
    code, out, _ = run_predict()
    turns = gold_turns(work, "test", 2)
    assert code == 0 and "SMOKE" in out
    assert [record["id"] for record in records(work)] == [turn.id for turn in turns]
    facts = files.read_json(folder(work) / "run.json")
    assert (facts["records"], facts["ok"], facts["failed"]) == (len(turns), len(turns), 0)


def test_several_systems_are_predicted_by_one_call_as_each_would_be_alone(work, server, model):
    common = ["--work", str(work), "--limit", "2", "--base-url", server.url, "--system"]
    alone = {}
    for name in ("decoupled_base", "vanilla_base"):
        assert cli.run(predict.main, [*common, name]) == 0
        alone[name] = (work / "runs" / MODEL / name / "predictions.jsonl").read_bytes()
        shutil.rmtree(work / "runs" / MODEL / name)
    assert cli.run(predict.main, [*common, *alone]) == 0
    for name, content in alone.items():
        assert (work / "runs" / MODEL / name / "predictions.jsonl").read_bytes() == content


def test_a_system_that_no_training_gives_is_told_before_anybody_is_asked(work, server, capsys):
    common = ["--work", str(work), "--limit", "2", "--base-url", server.url, "--system"]
    assert cli.run(predict.main, [*common, "self-refine_sft", "vanilla_base"]) == 2
    assert "SYSTEM=self-refine is a prompt on the base model" in error(capsys.readouterr().err)
    assert not (work / "runs" / MODEL / "vanilla_base").exists()  # told before anybody is asked


@pytest.mark.parametrize("name", ["vanilla_dpo_nothing", "vanilla_r2", "planner"])
def test_a_folders_name_that_is_none_is_one_line(work, server, capsys, name):
    assert cli.run(predict.main, ["--work", str(work), "--system", name]) == 2
    assert f"SYSTEM={name} is none of" in error(capsys.readouterr().err)


def test_the_same_command_again_does_nothing(run_predict, work, server):
    run_predict()
    before, asked = (folder(work) / "predictions.jsonl").read_bytes(), len(server.log)
    code, out, _ = run_predict()
    assert code == 0 and "nothing to do" in out
    assert len(server.log) == asked
    assert (folder(work) / "predictions.jsonl").read_bytes() == before


def test_a_turn_that_fails_is_counted_and_made_up_for_by_the_same_command(
    run_predict, work, server
):
    turn = gold_turns(work, "test", 2)[0]
    server.always = {turn.seeker: SERVER_ERROR}
    code, out, _ = run_predict(system="decoupled-gold")
    failed = [record for record in records(work, "decoupled-gold") if record["status"] == "failed"]
    assert code == 1 and turn.id in [record["id"] for record in failed]
    assert failed[0]["failure"]["kind"] == "server error" and failed[0]["failure"]["attempts"] == 6
    assert f"{len(failed)} server error; the same command asks again" in out
    assert not (folder(work, "decoupled-gold") / "run.json").exists()
    server.always, before = {}, len(server.chats())
    code, out, _ = run_predict(system="decoupled-gold")
    assert code == 0 and len(server.chats()) == before + len(failed)
    assert {record["status"] for record in records(work, "decoupled-gold")} == {"ok"}


def test_a_torn_last_line_is_asked_again_and_nothing_else(run_predict, work, server):
    run_predict(system="decoupled-gold")
    calls = folder(work, "decoupled-gold") / "calls.jsonl"
    calls.write_bytes(calls.read_bytes()[:-20])
    (folder(work, "decoupled-gold") / "run.json").unlink()
    before = len(server.chats())
    code, _, err = run_predict(system="decoupled-gold")
    assert code == 0 and "torn" in err
    assert len(server.chats()) == before + 1


def test_answers_of_another_run_are_refused_and_kept(run_predict, work):
    run_predict(system="decoupled-gold")
    foreign = folder(work, "vanilla") / "calls.jsonl"
    foreign.parent.mkdir(parents=True)
    shutil.copy(folder(work, "decoupled-gold") / "calls.jsonl", foreign)
    before = foreign.read_bytes()
    code, _, err = run_predict(system="vanilla")
    assert code == 2 and "another run" in error(err) and "move it away" in error(err)
    assert foreign.read_bytes() == before


def test_records_that_are_gone_or_not_this_runs_are_made_again(run_predict, work, server):
    run_predict()
    mine = (folder(work) / "predictions.jsonl").read_bytes()
    for other in (None, b'{"id": "another split"}\n'):
        (folder(work) / "predictions.jsonl").unlink()
        if other:
            (folder(work) / "predictions.jsonl").write_bytes(other)
        before = len(server.log)
        code, out, _ = run_predict()
        assert code == 0 and "0 answered" in out and len(server.log) == before
        assert (folder(work) / "predictions.jsonl").read_bytes() == mine


def test_other_system_prompts_than_the_sets_were_built_with_are_one_line(
    run_predict, work, tmp_path, monkeypatch
):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "sp_system.j2").write_text("Choose.")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path / "prompts"))
    code, _, err = run_predict()
    assert code == 2 and "other system prompts" in error(err) and "PROMPTS_DIR" in error(err)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http://127.0.0.1:80o0/v1", "host"])
def test_a_base_url_with_no_such_port_is_one_line(run_predict, work, url):
    code, _, err = run_predict(url=url)
    assert code == 2 and f"BASE_URL='{url}' is no URL" in error(err)


def test_a_password_in_a_base_url_is_refused_and_not_shown(run_predict, work):
    code, _, err = run_predict(url="http://me:hunter2@127.0.0.1:9/v1")
    assert code == 2 and "VLLM_API_KEY" in error(err) and "hunter2" not in err


def test_a_base_url_without_its_path_is_told_so(run_predict, work, server):
    code, _, err = run_predict(url=server.url.removesuffix("/v1"))
    assert code == 2 and "usually ends in /v1" in error(err)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--set", "validation"), "SET test -> validation"),
        (("--decode", "free"), "DECODE choice -> free"),
        (("--temperature", "0"), "TEMPERATURE 0.7 -> 0.0"),
        (("--limit", "1"), "LIMIT 2 -> 1"),
    ],
)
def test_predictions_of_other_options_are_kept_and_named(run_predict, work, options, told):
    run_predict()
    before = (folder(work) / "predictions.jsonl").read_bytes()
    code, _, err = run_predict(*options)
    assert code == 2 and told in error(err)
    assert "WORK=" in error(err) and "FORCE=1" in error(err)
    assert (folder(work) / "predictions.jsonl").read_bytes() == before


def test_how_answers_are_sampled_is_told(run_predict, work, server):
    _, out, _ = run_predict()
    assert "sampling    temperature 0.7, top-p 0.95, seeded by the turn's id" in out
    facts = files.read_json(folder(work) / "run.json")
    assert (facts["temperature"], facts["top_p"]) == (0.7, 0.95)
    _, out, _ = run_predict("--temperature", "0", "--force")
    assert "sampling    greedy" in out and "--temperature" not in out


@pytest.mark.parametrize("value", ["-1", "warm", "nan", "inf"])
def test_a_temperature_that_is_none_is_one_line(run_predict, server, value):
    code, _, err = run_predict(f"--temperature={value}")
    assert code == 2 and f"'{value}' is not a number of at least 0" in error(err)
    assert server.log == []


def test_a_turn_without_a_readable_plan_is_invalid_and_has_a_reply(run_predict, work, server):
    server.answer = lambda request: "Hug them"
    code, out, _ = run_predict("--decode", "free")
    assert code == 0 and " 0 ok" in out
    for record in records(work):
        assert (record["status"], record["predicted_strategy"]) == ("invalid", None)
        assert record["raw_strategy"] == record["predicted_response"] == "Hug them"


def test_a_tag_and_a_plan_are_read_behind_a_models_thinking(run_predict, work, server):
    server.answer = lambda request: "<think>\n[Others]\n</think>\n\n[Question] Since when?"
    assert run_predict("--decode", "free", system="vanilla")[0] == 0
    said = {
        (one["predicted_strategy"], one["predicted_response"]) for one in records(work, "vanilla")
    }
    assert said == {("Question", "Since when?")}
    server.answer = lambda request: "<think>they ask</think>Question"
    assert run_predict("--decode", "free")[0] == 0
    assert {one["predicted_strategy"] for one in records(work)} == {"Question"}


def test_a_run_that_made_nothing_yet_takes_other_options(run_predict, work):
    assert run_predict(url="http://127.0.0.1:9/v1")[0] == 2
    code, _, _ = run_predict("--limit", "1")
    assert code == 0 and len(records(work)) == len(gold_turns(work, "test", 1))


def test_force_makes_records_anew_from_the_answers_that_are_stored(run_predict, work, server):
    run_predict()
    before = len(server.chats())
    code, _, _ = run_predict("--limit", "1", "--force")
    assert code == 0 and len(server.chats()) == before
    assert len(records(work)) == len(gold_turns(work, "test", 1))
    code, _, _ = run_predict("--force")
    assert code == 0 and len(server.chats()) == before
    assert len(records(work)) == len(gold_turns(work, "test", 2))


def test_a_limit_beyond_the_split_is_one_line(run_predict, work):
    code, _, err = run_predict("--limit", "9999")
    assert code == 2 and "LIMIT=9999" in error(err) and "use a LIMIT of at most" in error(err)
    assert "make data" not in error(err), "the set is whole: building anew would not help"


def test_a_server_that_is_not_there_is_one_line(run_predict, work):
    code, _, err = run_predict(url="http://127.0.0.1:9/v1")
    assert code == 2 and "no server answers" in error(err) and "make serve" in error(err)


def test_a_base_url_that_is_none_is_one_line(run_predict, work):
    code, _, err = run_predict(url="localhost:8000")
    assert code == 2 and "BASE_URL='localhost:8000' is no URL" in error(err)


def test_a_model_the_server_lacks_is_one_line_without_a_request(run_predict, work, server):
    server.models = ("gpt-x", "gpt-y")
    code, _, err = run_predict()
    assert code == 2 and "does not serve base; it has gpt-x, gpt-y" in error(err)
    assert server.chats() == []


def test_a_model_that_vanishes_is_one_line_and_what_was_answered_is_kept(run_predict, work, server):
    server.always = {turn.seeker: NO_MODEL for turn in gold_turns(work, "test", 2)[3:4]}
    code, _, err = run_predict("--in-flight", "1", system="decoupled-gold")
    assert code == 2 and "does not exist" in error(err)
    stored = list(files.read_jsonl(folder(work, "decoupled-gold") / "calls.jsonl"))
    assert len(stored) == 1 + 3


def test_a_context_too_long_fails_alone(run_predict, work, server):
    server.always = {gold_turns(work, "test", 2)[-1].seeker: TOO_LONG}
    code, out, _ = run_predict(system="decoupled-gold")
    assert code == 1 and "context too long" in out and "--max-model-len" in out
    assert [record["status"] for record in records(work, "decoupled-gold")].count("ok") > 0


def test_a_truncated_reply_is_kept_and_counted(run_predict, work, server):
    server.always = {gold_turns(work, "test", 2)[-1].seeker: TRUNCATED}
    code, out, _ = run_predict(system="decoupled-gold")
    assert code == 0 and " with an answer cut at its length limit" in out
    assert records(work, "decoupled-gold")[-1]["predicted_response"] == "half an ans"


def test_the_distribution_is_null_where_the_server_gives_no_figures(run_predict, work, server):
    server.routes = {TOKENIZE: NO_ROUTE}
    assert run_predict()[0] == 0
    assert {record["distribution"] for record in records(work)} == {None}


def test_an_endpoint_that_ignores_the_choice_stops_the_run(run_predict, work, server):
    server.answer = lambda request: "Hello there"
    code, _, err = run_predict()
    assert code == 2 and "ignores the constraint" in error(err) and "DECODE=free" in error(err)


def test_a_dry_run_sends_nothing_and_says_how_much(run_predict, work, server):
    code, out, _ = run_predict("--dry-run", "--price", "1/2")
    turns = len(gold_turns(work, "test", 2))
    # A plan, a distribution and a reply for each turn.
    assert code == 0 and f"dry run: {3 * turns} requests to send" in out and "at most" in out
    assert server.log == [] and not list(folder(work).glob("*.json*"))


def test_a_prompt_baseline_on_a_trained_stage_is_one_line(run_predict, work):
    code, _, err = run_predict("--stage", "sft", system="self-refine")
    assert code == 2 and "STAGE=base" in error(err)


def test_an_adapter_that_is_not_trained_is_named_with_its_command(work, capsys, model):
    code = cli.run(predict.main, ["--work", str(work), "--stage", "sft", "--limit", "1"])
    assert code == 2 and f"make sft-rg WORK={work} trains it" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["base", "sft"])
@pytest.mark.parametrize("named", [("--variant", "ipo"), ("--round", "2"), ("--round", "1")])
def test_a_dpo_training_named_at_another_stage_is_one_line(run_predict, server, stage, named):
    code, _, err = run_predict("--stage", stage, *named)
    assert code == 2
    assert error(err) == "error: VARIANT and ROUND name a DPO training; use STAGE=dpo"
    assert server.log == []


def test_a_dpo_training_named_for_a_prompt_baseline_is_one_line(run_predict):
    code, _, err = run_predict("--stage", "dpo", "--variant", "ipo", system="self-refine")
    assert code == 2 and "use STAGE=base without VARIANT and ROUND" in error(err)


@pytest.mark.parametrize(
    ("system", "variant", "told"),
    [
        ("decoupled", "psnr", "VARIANT=psnr is none of sp's: practical, ipo"),
        ("decoupled-gold", "nsnr", "VARIANT=nsnr is none of rg's: practical, ipo"),
        ("vanilla", "typo", "VARIANT=typo is none of vanilla's: practical, ipo"),
    ],
)
def test_a_variant_that_a_task_lacks_is_one_line(run_predict, server, system, variant, told):
    code, _, err = run_predict("--stage", "dpo", "--variant", variant, system=system)
    assert code == 2 and told in error(err) and server.log == []


@pytest.mark.parametrize(
    ("system", "named", "lineage", "models"),
    [
        ("decoupled", (), Lineage(), {"sp-dpo", "rg-dpo"}),
        (
            "decoupled",
            ("--variant", "ipo", "--round", "2"),
            Lineage("ipo", 2),
            {"sp-dpo-ipo-r2", "rg-dpo-ipo-r2"},
        ),
        ("decoupled-gold", ("--round", "3"), Lineage(None, 3), {"rg-dpo-r3"}),
        ("vanilla", ("--variant", "nsnr_psnr"), Lineage("nsnr_psnr"), {"vanilla-dpo-nsnr-psnr"}),
    ],
)
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
    assert (options["STAGE"], options["VARIANT"], options["ROUND"]) == (
        "dpo", lineage.variant, lineage.round,
    )  # fmt: skip
    assert set(options["weights"]) == models


def test_the_folder_of_a_variants_second_round_is_named_after_both(run_predict, work, server):
    server.models = ("rg-dpo-ipo-r2",)
    options = ("--stage", "dpo", "--variant", "ipo", "--round", "2")
    assert run_predict(*options, system="decoupled-gold")[0] == 0
    made = work / "runs" / MODEL / "decoupled-gold_dpo_ipo_r2"
    header = json.loads((made / "calls.jsonl").read_text().splitlines()[0])
    assert header["calls of"]["stage"] == "dpo_ipo_r2"


def test_a_dpo_training_that_is_missing_is_named_with_its_command(work, capsys, model):
    argv = ["--work", str(work), "--system", "decoupled-gold", "--stage", "dpo"]
    code = cli.run(predict.main, [*argv, "--variant", "ipo", "--round", "2"])
    told = capsys.readouterr().err
    assert code == 2 and "rg_dpo_ipo_r2 holds no adapter" in told
    assert "make dpo-rg" in told and "VARIANT=ipo" in told and "ROUND=2" in told


def test_a_key_is_in_no_file_and_no_message(run_predict, work, server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-not-to-be-seen")
    server.always = {gold_turns(work, "test", 2)[0].seeker: SERVER_ERROR}
    _, out, err = run_predict(system="decoupled-gold")
    assert any("sk-not-to-be-seen" in request.headers["authorization"] for request in server.log)
    written = [path.read_text() for path in folder(work, "decoupled-gold").glob("*")]
    assert not [text for text in [out, err, *written] if "sk-not-to-be-seen" in text]


def test_another_prompt_of_a_baseline_is_another_run(run_predict, work, tmp_path, monkeypatch):
    run_predict(system="direct-refine")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "direct_refine.j2").write_text("Once more.")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path / "prompts"))
    code, _, err = run_predict(system="direct-refine")
    assert code == 2 and "prompts " in error(err)


def test_the_stored_answers_tell_what_was_asked(run_predict, work, server):
    run_predict(system="decoupled-gold")
    header, *rows = (folder(work, "decoupled-gold") / "calls.jsonl").read_text().splitlines()
    assert json.loads(header) == {
        "calls of": {"model": MODEL, "system": "decoupled-gold", "stage": "base"}
    }
    first = json.loads(rows[0])
    assert first["messages"][0]["role"] == "system" and first["answer"]["text"]
    assert first["record"] in [turn.id for turn in gold_turns(work, "test", 2)]
