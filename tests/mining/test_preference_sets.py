"""From routed files to the sets that LLaMA-Factory trains on: form, mixes, and whose turns."""

import random
import shutil

import pytest
from corpora import wrong

from data_builders import check, corpus
from data_builders.preference import apart
from esc import files, paths
from esc.paths import EMBEDDED, Lineage
from esc.psych_errors import PsychError
from esc.strategies import tag
from training.recipes import Training, recipe_for

TASKS = ("sp", "rg", "vanilla")
EMPATHY = PsychError.LACK_OF_EMPATHY


def reply(turn, index):
    return f"reply {turn.id} number {index}"


def entangled(turn, index):
    strategy = turn.strategy if index % 2 else wrong(turn.strategy)
    return tag(strategy, reply(turn, index))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where `mined` keeps its folder for the next test."""
    return tmp_path_factory.mktemp("kept") / "work"


@pytest.fixture
def mined(kept, bench, server, planted):
    """All three tasks, mined, routed and built."""
    if kept.exists():
        shutil.copytree(kept, bench.work, dirs_exist_ok=True)
        return bench
    turns = bench.turns()
    bench.sample("sp", lambda turn, _: wrong(turn.strategy).value)
    bench.sample("rg", reply, 2)
    bench.sample("vanilla", entangled, 4)
    # Only reply 0 is clean. Entangled, 0 and 2 are under a wrong strategy: NsPr, PsNr, NsNr, PsNr.
    planted.plan = {reply(turn, index): EMPATHY for turn in turns for index in (1, 2, 3)}
    bench.mine(*TASKS, url=server.url)
    assert bench.preference(*TASKS)[0] == 0
    shutil.copytree(bench.work, kept)
    return bench


def sets(work):
    return sorted((work / "data").glob("esc_*.jsonl"))


def prompts_of_train(work, task):
    """From the id of a train turn to (system, messages before the answer, answer)."""
    found = {}
    for row in files.read_jsonl(work / paths.sft_file(task, "train")):
        said = row.get("conversations", ())
        for turn in range(len(said) // 2):
            before, answer = said[: 2 * turn + 1], said[2 * turn + 1]["value"]
            found[f"{row['id']}-{turn}"] = row["system"], before, answer
        if not said:
            texts = [text for pair in row.get("history", ()) for text in pair]
            who = ("human", "gpt") * (len(texts) // 2) + ("human",)
            every = zip(who, [*texts, row["instruction"]], strict=True)
            before = [{"from": one, "value": text} for one, text in every]
            found[row["id"]] = row["system"], before, row["output"]
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_pair_is_a_ranking_row_with_the_train_rows_own_prompt_and_answer(mined, task):
    train = prompts_of_train(mined.work, task)
    rows = mined.set_rows(f"esc_{task}_dpo_{EMBEDDED}")
    assert {row["id"] for row in rows} == set(train)
    for row in rows:
        assert row["chosen"].keys() == row["rejected"].keys() == {"from", "value"}
        assert row["chosen"]["from"] == row["rejected"]["from"] == "gpt"
        assert (row["system"], row["conversations"], row["chosen"]["value"]) == train[row["id"]]
    first, rejected = mined.turns()[0], rows[0]["rejected"]["value"]
    expected = {"sp": wrong(first.strategy), "rg": reply(first, 1)}
    assert rejected == expected.get(task, rejected)
    assert task != "vanilla" or (rejected.startswith("[") and first.id in rejected)


def test_a_mix_holds_exactly_its_quadrants(mined):
    turns = [turn.id for turn in mined.turns()]
    for suffix, quadrants in {
        "": {"PsNr", "NsPr", "NsNr"},
        "_nsnr": {"NsNr"},
        "_nsnr_psnr": {"NsNr", "PsNr"},
        "_nsnr_nspr": {"NsNr", "NsPr"},
        "_psnr": {"PsNr"},
    }.items():
        rows = mined.set_rows(f"esc_vanilla_dpo_{EMBEDDED}{suffix}")
        assert sorted((row["id"], row["quadrant"]) for row in rows) == sorted(
            (turn, quadrant) for turn in turns for quadrant in quadrants
        )


@pytest.mark.parametrize("task", TASKS)
def test_single_replies_are_labelled_by_whether_they_are_wanted(mined, task):
    rows = mined.set_rows(f"esc_{task}_kto_{EMBEDDED}")
    train = prompts_of_train(mined.work, task)
    wanted = {row["id"] for row in rows if row["label"] is True}
    assert wanted == {row["id"] for row in rows if row["label"] is False} == set(train)
    for row in rows:
        *before, answer = row["conversations"]
        system, prompt, gold = train[row["id"]]
        assert (row["system"], before) == (system, prompt) and answer["from"] == "gpt"
        assert (answer["value"] == gold) is row["label"]
        # The other sampled reply has no error, and so is not unwanted.
        assert task != "rg" or row["label"] or answer["value"].endswith("number 1")


def test_no_row_has_a_mismatched_reply_of_its_own_turn_as_llamafactory_pairs_them(
    mined, model, tmp_path
):
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    asked = Training(task="vanilla", stage="dpo", work=mined.work, variant="kto")
    here = {"model_name_or_path": str(model), "cache_dir": str(tmp_path / "cache")}
    arguments = get_train_args(recipe_for(asked) | here | {"output_dir": str(tmp_path / "out")})
    model_args, data_args, training_args, _, _ = arguments
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    loaded = get_dataset(
        template, model_args, data_args, training_args, stage="kto", tokenizer=tokenizer
    )
    rows = mined.set_rows(f"esc_vanilla_kto_{EMBEDDED}")
    turn_of = {row["conversations"][-1]["value"]: row["id"] for row in rows}
    assert len(turn_of) == len(rows) == len(loaded["train_dataset"])
    for row, seen in zip(rows, loaded["train_dataset"], strict=True):
        own, mismatched = (
            turn_of[tokenizer.decode([i for i in seen[key] if i >= 0]).split("<|im_end|>")[0]]
            for key in ("labels", "kl_labels")
        )
        assert own == row["id"] != mismatched


def test_no_neighbours_in_a_circle_share_a_turn_where_no_turn_has_more_than_half():
    rng = random.Random(3)
    for _ in range(2000):
        turns = [str(rng.randrange(rng.randint(1, 6))) for _ in range(rng.randint(0, 20))]
        order = apart(turns)
        most = max(map(turns.count, turns), default=0)
        assert bool(order) == (bool(turns) and 2 * most <= len(turns))
        assert sorted(order) == list(range(len(turns))) or not order
        assert all(turns[order[i]] != turns[order[i - 1]] for i in range(len(order)))


def mined_rg(bench, server, planted, errors):
    """One generator's reply to every turn, with the errors found in these texts."""
    bench.sample("rg", reply)
    planted.plan = errors
    bench.mine("rg", url=server.url)
    return bench.preference("rg")


def test_single_replies_of_one_turn_alone_leave_no_file_and_say_so(bench, server, planted):
    code, out, _ = mined_rg(bench, server, planted, {reply(bench.turns()[0], 0): EMPATHY})
    name = f"esc_rg_kto_{EMBEDDED}"
    assert code == 0 and f"{name}.jsonl: 0 rows, so no file" in out
    assert [path.stem for path in sets(bench.work)] == [f"esc_rg_dpo_{EMBEDDED}"]


def test_a_gold_reply_with_an_error_is_no_wanted_reply(bench, server, planted):
    first, *others = turns = bench.turns()
    errors = {reply(turn, 0): EMPATHY for turn in turns} | {first.response: EMPATHY}
    mined_rg(bench, server, planted, errors)
    rows = bench.set_rows(f"esc_rg_kto_{EMBEDDED}")
    assert [row["label"] for row in rows if row["id"] == first.id] == [False]
    assert [row["label"] for row in rows].count(True) == len(others)


def test_a_mix_without_a_pair_has_no_file_any_more_and_that_is_said(bench, server, planted):
    # Of the entangled replies 3 is PsNr, 0 is NsPr.
    planted.plan = {reply(turn, 3): EMPATHY for turn in bench.turns()}
    for index in (3, 0):
        bench.sample("vanilla", lambda turn, _, index=index: entangled(turn, index))
        bench.judge("vanilla", "--force", url=server.url)
        bench.route("vanilla")
        code, out, _ = bench.preference("vanilla")
        names = {path.stem.removeprefix(f"esc_vanilla_dpo_{EMBEDDED}") for path in sets(bench.work)}
        mix = {3: {"_psnr", "_nsnr_psnr"}, 0: {"_nsnr_nspr"}}[index]
        assert code == 0 and names == {"", f"esc_vanilla_kto_{EMBEDDED}"} | mix
    assert f"esc_vanilla_dpo_{EMBEDDED}_psnr.jsonl: 0 rows, so no file" in out


def test_the_manifest_describes_every_set_and_the_same_bytes_come_again(mined, hashes):
    before = hashes(mined.work)
    registry = files.read_json(mined.work / "dataset_info.json")
    for task in TASKS:
        path = mined.work / paths.preference_manifest(task, EMBEDDED, Lineage())
        manifest = files.read_json(path)
        assert len(manifest["sets"]) == (6 if task == "vanilla" else 2)
        assert manifest["smoke"] is True and manifest["licence"]
        for name, facts in manifest["sets"].items():
            assert facts["sha256"] == files.sha256(mined.work / registry[name]["file_name"])
    assert mined.preference(*TASKS)[0] == 0 and hashes(mined.work) == before


def test_a_later_round_makes_and_registers_its_own_set_alone(bench, server, planted):
    bench.lineage = Lineage("nsnr", 2)
    bench.sample("vanilla", entangled, 4)
    planted.plan = {reply(turn, index): EMPATHY for turn in bench.turns() for index in (2, 3)}
    later = ("--variant", "nsnr", "--round", "2")
    bench.mine("vanilla", url=server.url, later=later)
    assert bench.preference("vanilla", *later)[0] == 0
    name = f"esc_vanilla_dpo_{EMBEDDED}_nsnr_r2"
    assert [path.stem for path in sets(bench.work)] == [name]
    assert {row["quadrant"] for row in bench.set_rows(name)} == {"NsNr"}
    assert files.read_json(bench.work / "dataset_info.json")[name]["ranking"] is True


def test_llamafactory_keeps_every_row_of_every_set(mined, model):
    summaries = {one["set"]: one for one in check.check(EMBEDDED, mined.work)}
    for path in sets(mined.work):
        summary = summaries[path.stem]
        assert summary["kept"] == summary["rows"] == path.read_bytes().count(b"\n") > 0


def test_no_turn_outside_the_train_split_is_learned_from(bench, esconv):
    bench.corpus = esconv
    bench.build(limit=20)
    bench.sample("sp", lambda turn, _: wrong(turn.strategy).value)
    bench.sample("rg", reply)
    bench.sample("vanilla", entangled)
    bench.mine(*TASKS, judge_name="random")
    assert bench.preference(*TASKS)[0] == 0
    sides = [one["paper"] for one in corpus.release().values()]
    for path in sets(bench.work):
        train, rows = (
            prompts_of_train(bench.work, path.name.split("_")[1]),
            bench.set_rows(path.stem),
        )
        for row in rows:
            said = row["conversations"][:-1] if "label" in row else row["conversations"]
            assert (row["system"], said) == train[row["id"]][:2], (path.name, row["id"])
            assert sides[int(row["id"].partition("-")[0])] == "train"
        assert len(rows) > 10
