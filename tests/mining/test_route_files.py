"""Routing from files: what does not belong together is one line, and what was there stays."""

import json
import shutil
from itertools import cycle

import pytest
import yaml

from esc import files
from esc.files import EscError
from esc.psych_errors import PsychError
from esc.strategies import tag

NONE, EMPATHY = PsychError.NONE, PsychError.LACK_OF_EMPATHY
LIMIT = 4


def reply(turn, index):
    return f"reply {turn.id} number {index}"


@pytest.fixture
def routed(bench, server, planted):
    """Samples of a few turns, verdicts that keep about half of them, their pairs and sets."""
    bench.sample("rg", reply, 3, limit=LIMIT)
    texts = [reply(turn, index) for turn in bench.turns(LIMIT) for index in range(3)]
    planted.plan = dict(zip(texts, cycle([NONE, EMPATHY]), strict=False))
    bench.mine("rg", url=server.url)
    assert bench.preference("rg")[0] == 0
    return bench


@pytest.fixture
def refused(routed, hashes, error_line):
    """The error of routing what a test has spoilt, or of ``step``; nothing is overwritten."""

    def call(*options, step=routed.route, **named):
        before = hashes(routed.mining("rg").routed), hashes(routed.work / "data")
        code, out, err = step("rg", *options, **named)
        assert code == 2 and out == "" and len(err.splitlines()) == 1
        assert before == (hashes(routed.mining("rg").routed), hashes(routed.work / "data"))
        return error_line(err)

    return call


def edit(path, change):
    """Replace the rows of a JSONL file by what ``change`` makes of their list."""
    rows = change(list(files.read_jsonl(path)))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("options", "told"),
    [({"split": "seed:7"}, "SPLIT seed:42 -> seed:7"), ({"limit": 12}, "train set ")],
)
def test_samples_and_pairs_of_other_turns_than_are_built_are_refused(
    routed, refused, options, told
):
    routed.build(**options)
    assert told in refused() and told in refused(step=routed.preference)


def test_samples_that_are_not_there_or_not_whole_are_named_with_their_command(bench, error_line):
    for step in (bench.route, bench.preference):
        assert f"make mine-rg WORK={bench.work}" in error_line(step("rg")[2])
    bench.sample("rg", reply, 2, limit=LIMIT, complete=False)
    assert f"LIMIT={LIMIT} SAMPLES=2" in error_line(bench.route("rg")[2])


def test_samples_and_verdicts_that_are_not_as_they_were_written_are_refused(
    routed, refused, server
):
    verdicts = routed.judged("rg") / "verdicts.jsonl"
    for path in (routed.mining("rg").folder / "samples.jsonl", verdicts):
        whole = path.read_bytes()
        edit(path, lambda rows: rows[::-1])
        assert "not complete, or was changed since" in refused()
        path.write_bytes(whole[:-30])
        assert "not complete" in refused("--explain", routed.turns(LIMIT)[0].id)
        if path != verdicts:
            path.write_bytes(whole)
    asked = len(server.chats())
    assert routed.judge("rg", url=server.url)[0] == 0
    assert verdicts.read_bytes() == whole and len(server.chats()) == asked


def test_verdicts_on_other_samples_are_refused_and_one_that_is_missing_named(routed, refused):
    # As where the screening has changed since.
    path = routed.judged("rg") / "verdicts.jsonl"
    edit(path, lambda rows: rows[:3] + rows[4:])
    done = files.read_json(path.parent / "run.json")
    files.write_json(path.parent / "run.json", done | {path.name: {"sha256": files.sha256(path)}})
    assert f"lacks a verdict on sample 0 of turn {routed.turns(LIMIT)[1].id}" in refused()
    routed.sample("rg", reply, 2, limit=LIMIT)
    assert "samples " in refused()


@pytest.mark.parametrize(
    ("at", "task", "options", "told"),
    [
        ("qwen2.5-7b/mining", "rg", ("--model", "qwen2.5-7b"), "MODEL smollm2-135m -> qwen2.5-7b"),
        ("smollm2-135m/mining", "vanilla", (), "task rg -> vanilla"),
        ("smollm2-135m/mining_r2", "rg", ("--round", "2"), "ROUND 1 -> 2"),
    ],
)
def test_another_minings_samples_are_refused(routed, server, error_line, at, task, options, told):
    shutil.copytree(routed.mining("rg").folder, routed.work / "runs" / at / task)
    assert told in error_line(routed.judge(task, *options, url=server.url)[2])
    assert told in error_line(routed.route(task, *options)[2])


def test_zero_pairs_name_what_took_them_and_do_not_keep_another_task_from_its_pairs(
    bench, server, error_line
):
    bench.sample("rg", lambda turn, index: [turn.response, "", "fine"][index], 3, limit=LIMIT)
    bench.sample("sp", lambda turn, _: "Others", limit=LIMIT)
    assert bench.judge("rg", url=server.url)[0] == 0
    code, _, err = bench.route("rg", "--task", "sp")
    turns, told = 2 * LIMIT, error_line(err)
    assert code == 2 and f"0 pairs of {3 * turns} samples for rg" in told
    for reason in ("same reply as gold", "empty reply", "no error in the sampled reply"):
        assert f"{turns} {reason}" in told
    assert [path.name for path in bench.mining("rg").routed.glob("*.json*")] == ["no_pairs.json"]
    assert bench.routed("sp", "pairs.jsonl")


@pytest.mark.parametrize("name", ["mining", "data/manifest.json"])
def test_a_manifest_without_a_field_is_named_with_the_field_and_what_writes_it(
    name, routed, refused
):
    route_json = routed.mining("rg").routed / "route.json"
    path = route_json if name == "mining" else routed.work / name
    files.write_json(path, files.read_json(path) | {"smoke": None})
    told = refused(step=routed.preference)
    assert f"{path} is not what make " in told and "smoke" in told


def judged_anew(bench, server, planted, plan):
    planted.plan = plan
    shutil.rmtree(bench.judged("rg"))
    assert bench.judge("rg", url=server.url)[0] == 0


def test_a_mining_without_pairs_leaves_those_of_before_and_none_to_take(
    routed, server, planted, hashes, refused
):
    before = hashes(routed.mining("rg").routed)
    judged_anew(routed, server, planted, {})
    assert routed.route("rg")[0] == 2
    after = hashes(routed.mining("rg").routed)
    assert after.pop("no_pairs.json") and before and after == before
    told = f"0 pairs of {6 * LIMIT} samples for rg"
    assert told in refused(step=routed.preference)
    with pytest.raises(EscError, match=told):
        routed.mining("rg").pairs()
    judged_anew(routed, server, planted, {reply(t, 0): EMPATHY for t in routed.turns(LIMIT)})
    assert routed.route("rg")[0] == routed.preference("rg")[0] == 0


@pytest.mark.parametrize("where", ["JsonlWriter.facts", "write_json"])
def test_a_kill_before_new_pairs_are_there_leaves_none_to_take(
    routed, server, planted, monkeypatch, where
):
    judged_anew(routed, server, planted, {})
    assert routed.route("rg")[0] == 2
    judged_anew(routed, server, planted, {reply(t, 0): EMPATHY for t in routed.turns(LIMIT)})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"esc.files.{where}", killed)
        assert routed.route("rg")[0] == 130
    assert routed.preference("rg")[0] == 2


def test_another_judges_pairs_are_replaced_with_force_alone(routed, refused):
    routed.judge("rg", judge_name="random")
    assert "judge m -> random" in refused(judge_name="random")
    assert routed.route("rg", "--force", judge_name="random")[0] == 0


def test_every_sample_is_routed_once_counts_add_up_and_the_same_bytes_come_again(routed, hashes):
    before = hashes(routed.mining("rg").routed)
    done = files.read_json(routed.mining("rg").routed / "route.json")
    routes = routed.routed("rg", "routes.jsonl")
    assert done["samples"] == len(routes) == len({(r["id"], r["sample"]) for r in routes})
    assert sum(done["fates"].values()) == done["samples"]
    assert done["fates"]["pair"] == done["pairs.jsonl"]["rows"] == sum(done["errors"].values())
    assert routed.route("rg")[0] == 0
    assert hashes(routed.mining("rg").routed) == before


def test_a_pair_carries_its_provenance(routed):
    expected = {"judge": "m", "blind": False, "task": "rg", "sampler": "rg-sft", "round": 1}
    expected |= {"split": "train", "smoke": True}
    for pair in routed.routed("rg", "pairs.jsonl"):
        provenance = pair["provenance"]
        assert provenance.items() >= expected.items() and provenance["weights"]
        assert provenance["verdict"]["rejected_error"] == pair["error"] == EMPATHY
        assert pair["explanation"] == "so" and isinstance(pair["seed"], int)
        assert len(provenance["prompts"]) == len(provenance["judge_prompts"]) == 64


def test_explain_tells_the_whole_way_of_a_turn_and_writes_nothing(
    routed, hashes, server, planted, refused
):
    first = routed.turns(LIMIT)[0]
    planted.odd = {reply(first, 2): "I would \x1b[2J keep it."}
    judged_anew(routed, server, planted, {reply(first, 1): EMPATHY})
    before = hashes(routed.work)
    code, out, _ = routed.route("rg", "--explain", first.id)
    assert code == 0 and hashes(routed.work) == before
    assert all(one.isprintable() for one in out.replace("\n", ""))
    told = yaml.safe_load(out)
    assert (told["turn"], told["seeker"], told["judge"]) == (first.id, first.seeker, "m")
    assert told["gold"] == tag(first.strategy, first.response) and told["sampler"] == "rg-sft"
    samples = {one["sample"]: one for one in told["samples"]}
    assert [samples[n]["answer"] for n in range(3)] == [reply(first, n) for n in range(3)]
    assert samples[1]["fate"] == "pair" and samples[1]["error"] == EMPATHY
    assert samples[1]["verdict"]["rejected_explanation"] == "so"
    assert samples[2]["unscored"] == "no verdict in the answer: I would \x1b[2J keep it."
    assert samples[2]["strategy"] == first.strategy and samples[2]["quadrant"] is None
    assert "turn 999-9 was not sampled" in refused("--explain", "999-9")
