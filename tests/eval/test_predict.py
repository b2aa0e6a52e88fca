"""Predictions over HTTP, with what can go wrong: every mistake is one line, and nothing is lost."""

import shutil

import pytest
from faulty_server import SERVER_ERROR, TOO_LONG, TRUNCATED, FaultyServer
from predicted import error

from esc import cli, files, paths
from esc.dialogue import gold_turns
from esc.paths import Lineage
from eval import predict

MODEL = "smollm2-135m"


@pytest.fixture
def work(sample_work, tmp_path):
    shutil.copytree(sample_work / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def server():
    with FaultyServer(models=("base",)) as server:
        yield server


@pytest.fixture
def run_predict(work, server, capsys, model):
    """Exit code, stdout and stderr of a run on two dialogues."""

    def call(*options, system="decoupled_base", at=server.url):
        argv = ["--work", str(work), "--limit", "2", "--system", *system.split()]
        code = cli.run(predict.main, [*argv, *(("--base-url", at) if at else ()), *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def folder(work):
    return work / "runs" / MODEL / "decoupled_base"


def records(folder):
    return list(files.read_jsonl(folder / "predictions.jsonl"))


def test_every_turn_has_a_record_in_the_order_of_the_set_and_is_asked_once(
    run_predict, work, folder, server
):
    code, out, _ = run_predict()
    turns = gold_turns(work, "test", 2)
    assert code == 0 and "SMOKE" in out
    assert "sampling    temperature 0.7, top-p 0.95, seeded by the turn's id" in out
    assert [record["id"] for record in records(folder)] == [turn.id for turn in turns]
    facts = files.read_json(folder / "run.json")
    assert (facts["records"], facts["ok"], facts["failed"]) == (len(turns), len(turns), 0)
    before, asked = (folder / "predictions.jsonl").read_bytes(), len(server.log)
    code, out, _ = run_predict()
    assert code == 0 and "nothing to do" in out and len(server.log) == asked
    # What was answered is not asked again, and other options are kept apart.
    code, _, err = run_predict("--set", "validation", "--decode", "free", "--temperature", "0")
    assert code == 2 and "WORK=" in error(err) and "FORCE=1" in error(err)
    for told in ("SET test -> validation", "TEMPERATURE 0.7 -> 0.0", "DECODE choice -> free"):
        assert told in error(err)
    assert run_predict("--force")[0] == 0 and len(server.log) == asked
    assert (folder / "predictions.jsonl").read_bytes() == before
    assert run_predict("--temperature", "0", "--force")[0] == 0 and len(server.log) > asked


def test_several_systems_are_predicted_by_one_call_as_each_would_be_alone(run_predict, work):
    alone = {}
    for name in ("decoupled_base", "decoupled-gold_base"):
        assert run_predict(system=name)[0] == 0
        path = work / "runs" / MODEL / name / "predictions.jsonl"
        alone[path] = path.read_bytes()
        shutil.rmtree(path.parent)
    assert run_predict(system=" ".join(path.parent.name for path in alone))[0] == 0
    assert {path: path.read_bytes() for path in alone} == alone


@pytest.mark.parametrize(
    ("system", "options", "told"),
    [
        ("self-refine_sft vanilla_base", (), "SYSTEM=self-refine is a prompt on the base model"),
        ("vanilla_dpo_nothing", (), "SYSTEM=vanilla_dpo_nothing is none of"),
        ("vanilla_r2", (), "SYSTEM=vanilla_r2 is none of"),
        ("decoupled", ("--round", "1"), "VARIANT and ROUND name a DPO training; use STAGE=dpo"),
        ("vanilla", ("--stage", "base", "--variant", "ipo"), "name a DPO training; use STAGE=dpo"),
        ("decoupled", ("--stage", "dpo", "--variant", "psnr"), "VARIANT=psnr is none of sp's"),
        ("vanilla_base", ("--temperature=-1",), "greater than or equal to 0"),
        ("vanilla_base", ("--limit", "9999"), "use a LIMIT of at most"),
    ],
)
def test_what_no_run_can_be_is_one_line_before_anybody_is_asked(
    run_predict, work, server, system, options, told
):
    code, _, err = run_predict(*options, system=system)
    assert code == 2 and told in error(err)
    assert server.log == [] and not (work / "runs").exists()


def test_an_adapter_that_is_not_trained_is_named_with_its_command(run_predict, work):
    named = ("--stage", "dpo", "--variant", "ipo", "--round", "2")
    for options, told in (
        ((), ["make sft-rg"]),
        (named, ["rg_dpo_ipo_r2 holds no adapter", "make dpo-rg", "VARIANT=ipo", "ROUND=2"]),
    ):
        code, _, err = run_predict(*options, system="decoupled-gold", at="")
        assert code == 2 and all(part in error(err) for part in (*told, f"WORK={work}"))


def test_a_turn_that_fails_is_counted_and_made_up_for_by_the_same_command(
    run_predict, work, server
):
    folder = work / "runs" / MODEL / "decoupled-gold_base"
    first, *_, last = gold_turns(work, "test", 2)
    server.always = {first.seeker: SERVER_ERROR, last.seeker: TOO_LONG}
    code, out, _ = run_predict(system=folder.name)
    failed = {record["id"]: record for record in records(folder) if record["status"] == "failed"}
    assert code == 1 and not (folder / "run.json").exists()
    assert failed[first.id]["failure"]["kind"] == "server error"
    assert "server error" in out and "the same command asks again for what is missing" in out
    assert "context too long" in out and "--max-model-len" in out
    server.always, before = {}, len(server.chats())
    assert run_predict(system=folder.name)[0] == 0
    assert len(server.chats()) == before + len(failed)
    assert {record["status"] for record in records(folder)} == {"ok"}


def test_other_prompts_are_another_run(run_predict, tmp_path, monkeypatch):
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


def test_a_plan_or_reply_that_is_not_as_asked_for_is_kept_and_counted(
    run_predict, work, folder, server
):
    server.always = {gold_turns(work, "test", 2)[0].seeker: TRUNCATED}
    server.answer = lambda request: "<think>\n[Others]\n</think>\n\nHug them"
    code, out, _ = run_predict("--decode", "free")
    cut, *others = records(folder)
    assert code == 0 and " 0 ok" in out and " with an answer cut at its length limit" in out
    assert cut["predicted_response"] == "half an ans"
    for record in others:
        assert (record["status"], record["predicted_strategy"]) == ("invalid", None)
        assert record["raw_strategy"] == record["predicted_response"] == "Hug them"
    # Where the strategies alone were allowed, it is the endpoint's fault.
    code, _, err = run_predict("--force")
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
