"""Routing from files: what does not belong together is one line, and what was there stays."""

import json
import shutil
from itertools import cycle

import pytest

from esc import files
from esc.exceptions import EscError
from esc.paths import Lineage
from esc.psych_errors import PsychError
from esc.strategies import Strategy, tag
from mining.stats import finished_route

NONE, EMPATHY, SHIFT = (
    PsychError.NONE,
    PsychError.LACK_OF_EMPATHY,
    PsychError.EARLY_EMOTION_SHIFT,
)
LIMIT = 4


def reply(turn, index):
    return f"reply {turn.id} number {index}"


@pytest.fixture
def judged(bench, server, planted):
    """Samples of a few turns, with verdicts that keep about half of them."""
    bench.sample("rg", reply, 3, limit=LIMIT)
    texts = [reply(turn, index) for turn in bench.turns(LIMIT) for index in range(3)]
    planted.plan = dict(zip(texts, cycle([NONE, EMPATHY]), strict=False))
    assert bench.judge("rg", url=server.url)[0] == 0
    return bench


@pytest.fixture
def routed(judged):
    """And their pairs, as sets."""
    assert judged.route("rg")[0] == 0
    assert judged.preference("rg")[0] == 0
    return judged


@pytest.fixture
def refused(routed, hashes, error_line):
    """The error of routing what a test has spoilt, and a look that nothing was overwritten."""

    def call(*options, task="rg", **named):
        folder = routed.mining(task).routed
        before = hashes(folder)
        code, out, err = routed.route(task, *options, **named)
        assert code == 2 and out == "" and len(err.splitlines()) == 1
        assert before and hashes(folder) == before
        return error_line(err)

    return call


@pytest.fixture
def refused_sets(routed, hashes, error_line):
    """The same of building sets."""

    def call():
        before = hashes(routed.work / "data")
        code, out, err = routed.preference("rg")
        assert code == 2 and out == ""
        assert hashes(routed.work / "data") == before
        return error_line(err)

    return call


def verdict_file(bench, slug="m"):
    return bench.judged("rg", slug) / "verdicts.jsonl"


def edit(path, change):
    """Replace the rows of a JSONL file by what ``change`` makes of their list."""
    rows = change(list(files.read_jsonl(path)))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_routed(bench, name, change):
    """The same of a routed file, with its hash in route.json made to fit."""
    folder = bench.mining("rg").routed
    edit(folder / name, change)
    done = files.read_json(folder / "route.json")
    done[name]["sha256"] = files.sha256(folder / name)
    files.write_json(folder / "route.json", done)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"split": "seed:7"}, "SPLIT seed:42 -> seed:7"), ({"limit": 12}, "train set ")],
)
def test_samples_of_another_split_are_refused(routed, refused, options, told):
    routed.build(**options)
    assert told in refused() and "FORCE=1" in refused()


def test_samples_of_another_corpus_are_refused(routed, refused, tmp_path):
    rows = json.loads(routed.corpus.read_text())
    rows[0]["dialog"][0]["content"] = "something else"
    routed.corpus = tmp_path / "other.json"
    routed.corpus.write_text(json.dumps(rows))
    routed.build()
    assert "ESCONV " in refused()


def test_sets_of_another_split_are_refused(routed, refused_sets):
    routed.build(split="seed:7")
    assert "SPLIT seed:42 -> seed:7" in refused_sets()


def test_samples_that_are_not_there_are_named_with_their_command(bench, error_line):
    code, _, err = bench.route("rg")
    assert code == 2 and "samples.jsonl does not exist" in error_line(err)
    assert f"make mine-rg WORK={bench.work}" in error_line(err)


def test_samples_that_are_not_complete_are_refused(routed, refused):
    (routed.mining("rg").folder / "run.json").unlink()
    assert "samples.jsonl is not complete" in refused()


def test_samples_changed_since_are_refused(routed, refused):
    edit(routed.mining("rg").folder / "samples.jsonl", lambda rows: rows[:-1])
    assert "samples.jsonl was changed since" in refused()


@pytest.mark.parametrize("lost", [slice(0, 1), slice(5, 7), slice(-1, None), slice(0, None)])
def test_samples_without_a_verdict_are_counted(routed, refused, lost):
    gone = list(files.read_jsonl(verdict_file(routed)))[lost]
    edit(verdict_file(routed), lambda rows: [row for row in rows if row not in gone])
    told = refused()
    assert f"lacks the verdicts on {len(gone)} samples" in told
    assert f"{gone[0]['id']} sample {gone[0]['sample']}" in told and "FORCE=1" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [*rows, rows[0]], "is there twice"),
        (lambda rows: [rows[0], *rows], "is there twice"),
        (lambda rows: rows[::-1], "not in the train set's order"),
        (lambda rows: [rows[0] | {"id": "first"}], "'first' is no id of a turn"),
        (lambda rows: [*rows[:2], {"id": "1-0"}], "line 3: no sample of this kit"),
        (lambda rows: [rows[0] | {"gold_strategy": "Rudeness"}], "line 1: no sample of this kit"),
    ],
)
def test_a_sample_that_is_none_or_out_of_place_is_named(bench, error_line, change, told):
    folder = bench.sample("sp", lambda *_: "Others", limit=LIMIT).folder
    edit(folder / "samples.jsonl", change)
    facts = files.read_json(folder / "run.json")
    facts["samples.jsonl"]["sha256"] = files.sha256(folder / "samples.jsonl")
    files.write_json(folder / "run.json", facts)
    code, _, err = bench.route("sp")
    assert code == 2 and told in error_line(err)
    assert not list(bench.mining("sp").routed.glob("*.json*"))


def test_verdicts_of_two_judges_are_never_mixed(routed, refused):
    edit(verdict_file(routed), lambda rows: [*rows[:6], rows[6] | {"judge": "n"}, *rows[7:]])
    told = refused()
    assert "line 7: a verdict by n, among those by m" in told


def test_verdicts_on_other_samples_are_refused(routed, refused):
    routed.sample("rg", reply, 2, limit=LIMIT)
    assert "are on other samples" in refused()


def test_verdicts_that_are_not_complete_are_refused(routed, refused):
    (routed.judged("rg") / "run.json").unlink()
    assert "verdicts.jsonl is not complete" in refused()


def test_where_only_another_judge_has_judged_its_name_is_told(routed, refused):
    told = refused(judge_name="gpt-x")
    assert "judges/gpt-x/verdicts.jsonl does not exist (there are some by m)" in told


def test_blind_verdicts_are_others_than_those_that_know(routed, refused):
    assert "judges/m_blind/verdicts.jsonl does not exist (there are some by m)" in refused(
        "--blind"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [rows[0], *rows], "is there twice"),
        (lambda rows: [*rows, rows[0] | {"id": "999-0"}], "turn 999-0, which was not sampled"),
        (lambda rows: [rows[0] | {"sample": 17}, *rows[1:]], "was not to be judged"),
        (lambda rows: rows[::-1], "lacks the verdicts"),
        (lambda rows: [{"judge": "m"}, *rows], "line 1: no verdict of this kit"),
        (lambda rows: [rows[0] | {"rejected_error": "Rudeness"}, *rows[1:]], "is none: "),
        (lambda rows: [rows[0] | {"status": "failed"}, *rows[1:]], "is none: "),
    ],
    ids=["twice", "unknown turn", "unknown sample", "order", "no verdict", "off-menu", "failed"],
)
def test_a_verdict_that_is_out_of_place_is_named(routed, refused, change, told):
    edit(verdict_file(routed), change)
    assert told in refused()


def test_verdicts_changed_since_are_refused_and_made_anew_from_stored_answers(
    routed, refused, server
):
    before, asked = verdict_file(routed).read_bytes(), len(server.chats())
    edit(verdict_file(routed), lambda rows: [row | {"retain": True} for row in rows])
    assert "verdicts.jsonl was changed since" in refused()
    assert routed.judge("rg", url=server.url)[0] == 0
    assert verdict_file(routed).read_bytes() == before and len(server.chats()) == asked


def test_a_torn_verdict_file_is_named_with_its_line(routed, refused):
    path = verdict_file(routed)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}, line {6 * LIMIT}: not JSON" in refused()


@pytest.mark.parametrize("step", ["judge", "route", "preference"])
def test_the_mining_of_another_model_is_refused(routed, server, hashes, error_line, step):
    runs = routed.work / "runs"
    shutil.copytree(runs / routed.model, runs / "qwen2.5-7b")
    routed.model = "qwen2.5-7b"
    before = hashes(routed.work)
    named = {"url": server.url} if step == "judge" else {}
    code, _, err = getattr(routed, step)("rg", **named)
    assert code == 2 and "smollm2-135m" in error_line(err)
    assert hashes(routed.work) == before


def test_the_mining_of_another_task_or_round_is_refused(routed, error_line):
    rg = routed.mining("rg").folder
    shutil.copytree(rg, rg.parent / "vanilla")
    assert "task rg -> vanilla" in error_line(routed.route("vanilla")[2])
    later = routed.work / "runs" / routed.model / f"mining{Lineage(None, 2).suffix}"
    shutil.copytree(rg, later / "rg")
    assert "ROUND 1 -> 2" in error_line(routed.route("rg", "--round", "2")[2])


def test_zero_pairs_name_what_took_them(bench, server, planted, error_line):
    bench.sample("rg", lambda turn, index: [turn.response, "", "fine"][index], 3, limit=LIMIT)
    assert bench.judge("rg", url=server.url)[0] == 0
    code, _, err = bench.route("rg")
    turns, told = 2 * LIMIT, error_line(err)
    assert code == 2
    assert [path.name for path in bench.mining("rg").routed.glob("*.json*")] == ["no_pairs.json"]
    assert f"0 pairs of {3 * turns} samples for rg" in told
    for reason in ("same reply as gold", "empty reply", "no error in the sampled reply"):
        assert f"{turns} {reason}" in told


def test_zero_pairs_of_one_task_do_not_keep_another_from_its_pairs(bench, error_line):
    bench.sample("sp", lambda turn, _: turn.strategy.value, limit=LIMIT)
    bench.sample("rg", reply, 3, limit=LIMIT)
    bench.judge("rg", judge_name="random")
    code, _, err = bench.route("rg", "--task", "sp", "rg", judge_name="random")
    assert code == 2 and f"{2 * LIMIT} same strategy as gold" in error_line(err)
    assert bench.routed("rg", "pairs.jsonl")


def test_a_routing_that_leaves_no_pair_overwrites_nothing(routed, server, planted, hashes):
    planted.plan = {}
    shutil.rmtree(routed.judged("rg"))
    routed.judge("rg", url=server.url)
    before = hashes(routed.mining("rg").routed)
    assert routed.route("rg")[0] == 2
    after = hashes(routed.mining("rg").routed)
    assert after.pop("no_pairs.json") and before and after == before


@pytest.fixture
def without_pairs(routed, server, planted):
    """Pairs and sets of a first mining, and a second one that no pair came out of."""
    planted.plan = {}
    shutil.rmtree(routed.judged("rg"))
    routed.judge("rg", url=server.url)
    assert routed.route("rg")[0] == 2
    return routed


def test_the_pairs_of_before_are_no_sets_of_a_mining_without_pairs(without_pairs, refused_sets):
    assert f"0 pairs of {6 * LIMIT} samples for rg" in refused_sets()


def test_a_mining_without_pairs_is_none_to_audit(without_pairs):
    with pytest.raises(EscError, match=f"0 pairs of {6 * LIMIT} samples for rg"):
        finished_route(without_pairs.mining("rg"))


def test_pairs_again_are_taken_again(without_pairs, server, planted):
    planted.plan = {reply(turn, 0): EMPATHY for turn in without_pairs.turns(LIMIT)}
    shutil.rmtree(without_pairs.judged("rg"))
    without_pairs.judge("rg", url=server.url)
    assert without_pairs.route("rg")[0] == 0
    assert without_pairs.preference("rg")[0] == 0


def test_a_kill_before_new_pairs_are_there_leaves_none_to_take(
    without_pairs, server, planted, monkeypatch
):
    planted.plan = {reply(turn, 0): EMPATHY for turn in without_pairs.turns(LIMIT)}
    shutil.rmtree(without_pairs.judged("rg"))
    without_pairs.judge("rg", url=server.url)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mining.route.JsonlWriter.flush", killed)
        assert without_pairs.route("rg")[0] == 130
    assert without_pairs.preference("rg")[0] == 2


def test_another_judges_pairs_are_replaced_with_force_alone(routed, hashes, error_line):
    routed.judge("rg", judge_name="random")
    before = hashes(routed.mining("rg").routed)
    code, _, err = routed.route("rg", judge_name="random")
    assert code == 2 and "another judge's verdicts gave (judge m -> random)" in error_line(err)
    assert hashes(routed.mining("rg").routed) == before
    assert routed.route("rg", "--force", judge_name="random")[0] == 0


def test_what_is_missing_is_asked_for_by_the_command_that_began_it(bench, error_line):
    bench.sample("rg", reply, 2, limit=LIMIT, complete=False)
    line = error_line(bench.route("rg")[2])
    assert f"LIMIT={LIMIT} SAMPLES=2 asks for what is missing" in line


def test_every_sample_is_routed_once_and_counts_add_up(routed):
    done = files.read_json(routed.mining("rg").routed / "route.json")
    routes = routed.routed("rg", "routes.jsonl")
    assert done["samples"] == len(routes) == len({(r["id"], r["sample"]) for r in routes})
    assert sum(done["fates"].values()) == done["samples"]
    assert done["fates"]["pair"] == done["pairs.jsonl"]["rows"] == sum(done["errors"].values())


def test_a_pair_carries_its_provenance(routed):
    for pair in routed.routed("rg", "pairs.jsonl"):
        provenance = pair["provenance"]
        assert provenance["judge"] == "m" and provenance["blind"] is False
        assert provenance["sampler"] == "rg-sft" and provenance["weights"] == "a" * 64
        assert provenance["split"] == "train" and provenance["smoke"] is True
        assert provenance["verdict"]["rejected_error"] == pair["error"] == EMPATHY
        assert pair["explanation"] == "because" and isinstance(pair["seed"], int)
        assert len(provenance["prompts"]) == len(provenance["judge_prompts"]) == 64


def test_routing_again_makes_the_same_bytes(routed, hashes):
    before = hashes(routed.mining("rg").routed)
    assert routed.route("rg")[0] == 0
    assert hashes(routed.mining("rg").routed) == before


def test_a_route_that_ends_before_its_end_leaves_no_route_json(routed, monkeypatch, error_line):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mining.route.files.write_json", killed)
        assert routed.route("rg")[0] == 130
    assert not (routed.mining("rg").routed / "route.json").exists()
    code, _, err = routed.preference("rg")
    assert code == 2 and "route.json does not exist" in error_line(err)


def test_a_pair_whose_sides_are_equal_stops_the_sets(routed, refused_sets):
    edit_routed(
        routed, "pairs.jsonl", lambda rows: [rows[0] | {"rejected": rows[0]["chosen"]}, *rows[1:]]
    )
    first = routed.routed("rg", "pairs.jsonl")[0]["id"]
    assert f"chosen equals rejected in turn {first}" in refused_sets()


@pytest.mark.parametrize("name", ["pairs.jsonl", "singles.jsonl"])
def test_a_turn_that_is_not_of_the_train_set_stops_the_sets(routed, refused_sets, name):
    foreign = next(files.read_jsonl(routed.work / "data" / "rg_sft_test.jsonl"))["id"]
    edit_routed(routed, name, lambda rows: [*rows[:-1], rows[-1] | {"id": foreign}])
    assert f"turn {foreign} is not in " in refused_sets()


def test_another_gold_answer_than_the_train_sets_stops_the_sets(routed, refused_sets):
    edit_routed(routed, "pairs.jsonl", lambda rows: [*rows[:-1], rows[-1] | {"chosen": "better"}])
    assert "is not the train set's gold one" in refused_sets()


@pytest.mark.parametrize("name", ["pairs.jsonl", "singles.jsonl"])
def test_pairs_changed_since_they_were_routed_stop_the_sets(routed, refused_sets, name):
    edit(routed.mining("rg").routed / name, lambda rows: rows[1:])
    assert f"{name} was changed since" in refused_sets()


def test_sets_without_a_routing_are_one_line(bench, error_line):
    code, _, err = bench.preference("rg")
    assert code == 2 and f"make mine-rg WORK={bench.work} makes it" in error_line(err)


def test_explain_tells_the_whole_way_of_a_turn_and_writes_nothing(routed, hashes):
    before = hashes(routed.work)
    route = next(row for row in routed.routed("rg", "routes.jsonl") if row["fate"] == "pair")
    turn = next(turn for turn in routed.turns(LIMIT) if turn.id == route["id"])
    code, out, _ = routed.route("rg", "--explain", turn.id)
    assert code == 0 and hashes(routed.work) == before
    lines = out.splitlines()
    assert f"  seeker    {turn.seeker}" in lines
    assert f"  gold      [{turn.strategy}] {turn.response}" in lines
    assert f"  sampler   rg-sft, weights {'a' * 12}" in lines and "  judge     m" in lines
    for index in range(3):
        assert f"  answer    {reply(turn, index)}" in lines
    assert "    sampled Lack of Empathy: because" in lines and "  verdict   retain: Yes" in lines
    fates = [line for line in lines if line.startswith("  fate")]
    assert len(fates) == 3
    assert "  fate      pair for rg's preference training, Lack of Empathy" in fates


def test_explain_tells_why_an_answer_is_unscored(judged, server, planted):
    first = judged.turns(LIMIT)[0]
    planted.odd = {reply(first, 1): "I would keep it."}
    shutil.rmtree(judged.judged("rg"))
    judged.judge("rg", url=server.url)
    _, out, _ = judged.route("rg", "--explain", first.id)
    assert "unscored: no verdict in the answer (I would keep it.)" in out
    assert "dropped: unscored by the judge" in out


def test_explain_names_strategy_and_quadrant_of_an_entangled_answer(bench, server):
    bench.sample("vanilla", lambda turn, _: tag(Strategy.OTHERS, reply(turn, 0)), limit=LIMIT)
    bench.judge("vanilla", url=server.url)
    _, out, _ = bench.route("vanilla", "--explain", bench.turns(LIMIT)[0].id)
    assert "  strategy  Others" in out and "(NsPr)" in out


def test_explain_of_a_planners_turn_needs_no_judge(bench):
    bench.sample("sp", lambda *_: "no strategy at all", limit=LIMIT)
    _, out, _ = bench.route("sp", "--explain", bench.turns(LIMIT)[0].id)
    assert "  strategy  none that parses" in out and "dropped: unparsable strategy" in out


def test_explain_of_an_unknown_turn_is_one_line(routed, refused):
    assert "turn 999-9 was not sampled" in refused("--explain", "999-9")


def test_explain_refuses_verdicts_that_are_not_whole(routed, refused):
    gone = next(files.read_jsonl(verdict_file(routed)))
    edit(verdict_file(routed), lambda rows: rows[1:])
    assert "lacks the verdicts" in refused("--explain", gone["id"])


def test_explain_shows_nothing_that_steers_a_terminal(bench):
    bench.sample("rg", lambda turn, _: f"{reply(turn, 0)}\x1b[2J\x9b31m\x7f\u202e end", limit=LIMIT)
    bench.judge("rg", judge_name="random")
    _, out, _ = bench.route("rg", "--explain", bench.turns(LIMIT)[0].id, judge_name="random")
    assert all(one.isprintable() for one in out.replace("\n", "")) and " end" in out
