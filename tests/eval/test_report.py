"""The report: everything of the paper, filled or not run, in three forms from one object."""

import base64
import html
import json
import re
from functools import partial

import pytest
import reported
from reported import change, write

from esc import cli
from esc.dialogue import order
from esc.visible import plain
from eval import paper
from eval.report.page import main
from eval.report.parts import cell

EMBEDDED, QWEN, LLAMA = "smollm2-135m", "qwen2.5-7b", "llama3.1-8b"
RQ3 = "RQ3: Decoupled DPO less Decoupled SFT"
OF_THE_PAPER = (
    *("table-1-esconv", "table-1-pairs", "table-2", "table-3", "table-4", "table-5", "table-6"),
    *("figure-2", "figure-3", "figure-4a", "figure-4b"),
    *("figure-6", "figure-7", "figure-8", "figure-9", "figure-10"),
)
HOSTILE = (
    "<script>alert(1)</script> | `x` **b** [l](javascript:y) \n# head </td> http://bad.example"
    " \x1b[2J\x9b\u202e\u2066"
)


def tables(value):
    return {one["name"]: one for section in value["sections"] for one in section["items"]}


def cells(value):
    """Every cell of a report's JSON."""
    rows = [row for table in tables(value).values() for row in table["rows"]]
    return [cell for row in rows for cell in row["cells"]]


def row(table, label, group=""):
    """The cells of a row."""
    found = (one for one in table["rows"] if one["label"] == label and group in ("", one["group"]))
    return next(found)["cells"]


def article(page, name):
    return page.partition(f'<article id="{name}">')[2].partition("</article>")[0]


def written(work, *models, force=False):
    """Run the step; (JSON, Markdown, HTML) of what it wrote."""
    forced = ["--force"] * force
    assert cli.run(main, ["--models", *models, "--work", str(work), *forced]) == 0
    folder = work / "runs" / (models[0] if len(models) == 1 else "")
    texts = [(folder / f"report.{end}").read_text() for end in ("json", "md", "html")]
    return json.loads(texts[0]), texts[1], texts[2]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The step, in the test's own folder; it draws nothing, which takes most of its time."""
    monkeypatch.setattr("eval.report.page.pictures", lambda _: {})
    return partial(written, tmp_path)


@pytest.fixture
def runs(tmp_path):
    """The folder of two systems on the same turns."""
    for name, base in (("decoupled_sft", 20.0), ("decoupled_dpo", 20.15)):
        reported.system(tmp_path, QWEN, name, base)
    return tmp_path / "runs" / QWEN


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The three forms of a backbone with everything run."""
    return written(reported.whole(tmp_path_factory.mktemp("whole"), QWEN), QWEN)


def test_without_any_run_every_table_is_there_and_says_what_fills_it(made):
    value, markdown, page = made(EMBEDDED)
    found = tables(value)
    for name in OF_THE_PAPER:
        assert found[name]["status"] == "not run" and f'id="{name}"' in page, name
        commands = [todo["command"] for todo in found[name]["todo"]]
        assert commands and all(one in markdown and html.escape(one) in page for one in commands)
    assert "SMOKE" not in json.dumps(value) and value["examples_todo"]
    cited = (value["citation"], html.unescape(page.partition("<pre><code>")[2]), markdown)
    assert all(paper.BIBTEX in one for one in cited)


def test_a_whole_run_fills_every_table_draws_every_figure_and_is_not_marked(whole):
    value, markdown, page = whole
    found, told = tables(value), html.unescape(page)
    assert not value["smoke"] and "SMOKE" not in markdown and ">SMOKE" not in page
    for name in OF_THE_PAPER:
        assert found[name]["status"] in ("run", "partly run"), name
        assert not name.startswith("figure") or "<picture>" in article(page, name), name
    judged = f"{QWEN}: classified by some-judge; intervals: 95 %, by dialogue."
    assert judged in found["figure-7"]["notes"]
    improved = row(found["table-2"], "improvement")[0]
    assert (improved["shown"], improved["note"]) == ("31.25 %", "+0.75 points [+0.65, +0.85]")
    counted = [cell["value"] for cell in row(found["table-counts"], "Vanilla SFT")]
    assert counted == [40, 3, 1, 0, 4, 2]
    baselines = [one["label"] for one in found["table-3"]["rows"]][-4:]
    assert baselines == [f"baseline: {name}" for name in reported.BASELINES]
    assert "Bias alone shows no skill" in found["table-3"]["notes"][0]
    # Every number is the same in all three forms.
    for shown in {one[name] for one in cells(value) for name in ("shown", "interval")}:
        assert shown in told and plain(shown) in markdown
    assert sum(one["value"] is not None for one in cells(value)) > 300


def test_what_was_run_without_a_number_is_undefined_says_why_and_is_not_drawn(tmp_path, made):
    nobody = {"value": None, "low": None, "high": None, "n": 0}
    one = {"chosen": nobody, "rejected": nobody, "difference": nobody | {"percent": None}}
    reported.whole(tmp_path, QWEN)
    runs = tmp_path / "runs" / QWEN
    change(runs / "pairs_judge/judge.json", dimensions=dict.fromkeys(paper.DIMENSIONS, one))
    none = {"count": 0, "share": None, "low": None, "high": None}
    for path in runs.glob("decoupled_*/errors/proportions.json"):
        change(path, n=0, errors=dict.fromkeys(json.loads(path.read_text())["errors"], none))
    value, _, page = made(QWEN)
    found, drawn = tables(value), article(page, "figure-7")
    shown = row(found["table-2"], "chosen")[0], row(found["table-strategies"], "Vanilla SFT")[1]
    assert [(one["shown"], one["note"]) for one in shown] == [
        ("undefined", "none scored"),
        ("undefined", "no record has a distribution"),
    ]
    assert found["table-2"]["status"] == "run"
    assert '<p class="gap">undefined</p>' in drawn and "<picture" not in drawn


def test_the_paper_stands_beside_its_own_backbones_and_both_beside_any_other(tmp_path, made):
    for model, base in ((QWEN, 20), (LLAMA, 30), (EMBEDDED, 40)):
        reported.system(tmp_path, model, "decoupled_dpo", base)
    value, _, _ = made(QWEN, LLAMA, EMBEDDED)
    found = tables(value)
    assert found["table-1-pairs"]["columns"] == [QWEN, LLAMA, EMBEDDED, "both of the paper's"]
    dpo = [row(found["table-3"], "Decoupled DPO", model)[8] for model in (QWEN, LLAMA, EMBEDDED)]
    assert [one["value"] for one in dpo] == [0.2, 0.3, 0.4]
    of_both = [["Qwen", 0.22], ["Llama", 0.15]]
    assert [one["paper"] for one in dpo] == [[["paper", 0.22]], [["paper", 0.15]], of_both]
    base = row(found["table-3"], "Vanilla Base", QWEN)[8]
    assert (base["shown"], base["paper"]) == ("not run", [["paper", 2.17]])
    assert {one["model"] for one in value["examples"]} == {QWEN, LLAMA, EMBEDDED}
    # The embedded model is no result, and the mark names it alone.
    assert found["table-3"]["mark"] == f"SMOKE: {EMBEDDED}"


def test_every_printed_value_of_the_paper_stands_there_and_its_tables_add_up(made):
    value, markdown, _ = made(QWEN, LLAMA)
    shown = {one for cell in cells(value) for _, one in cell["paper"]}
    by_column = (paper.TABLE_2, paper.TABLE_3, paper.TABLE_4, paper.TABLE_5)
    rows = [row for table in by_column for column in table.values() for row in column.values()]
    of_corpus = (paper.TABLE_1_ESCONV, paper.TABLE_6, paper.TABLE_6_SHARES)
    rows += [*paper.TABLE_1_PAIRS.values(), *(table.values() for table in of_corpus)]
    assert {one for values in rows for one in values if one is not None} <= shown
    assert "paper 29,526" in markdown and sum(paper.TABLE_6.values()) == 14763
    for total, qwen, llama in list(paper.TABLE_1_PAIRS.values())[:2]:
        assert total == qwen + llama
    for column in ("Qwen", "Llama"):
        assert paper.TABLE_5[column]["vanilla_dpo"] == paper.TABLE_3[column]["vanilla_dpo"]


def test_no_result_is_marked_once_for_each_table_figure_and_example(tmp_path, made):
    # The model alone makes it so: its own files do not say it.
    reported.whole(tmp_path, EMBEDDED)
    reported.data(tmp_path, smoke=True)
    change(tmp_path / "runs/failed_esconv/errors/proportions.json", smoke=True)
    value, markdown, page = made(EMBEDDED)
    assert value["banner"].startswith("SMOKE") and "> **SMOKE**" in markdown
    assert '<p class="banner"' in page and "<title>SMOKE" in page
    for table in tables(value).values():
        filled = any(one["value"] is not None for of in table["rows"] for one in of["cells"])
        assert table["mark"] == ("SMOKE" if filled else "")
    assert all(example["smoke"] for example in value["examples"])
    headings = re.findall(r"^### (?:Table|Figure|Turn) .*", markdown, re.M)
    empty = [table["title"] for table in tables(value).values() if not table["filled"]]
    for heading in [*headings, *re.findall(r"<h3>(.*?)</h3>", page, re.S)]:
        assert ("SMOKE" in heading) != any(title in heading for title in empty)
    assert not [one for one in re.findall(r"<td.*?</td>", page, re.S) if "SMOKE" in one]


def test_a_random_judge_marks_its_own_columns_and_no_others(runs, made):
    for path in runs.glob("*/judge/judge.json"):
        change(path, smoke=True)
    value, _, _ = made(QWEN)
    assert tables(value)["table-3"]["mark"] == "SMOKE: Flu. ↑, Pro. ↑, Emp. ↑, Hel. ↑"
    assert value["smoke"]


def test_the_page_needs_nothing_and_runs_nothing(whole):
    page = whole[2]
    assert not re.search(r"<(script|link)|\s(style|on\w+)=|https?://|@import|url\(", page)
    references = {*re.findall(r'(?:href|src|srcset|action|data)="([^"]*)"', page)}
    images = {one for one in references if one.startswith("data:image/svg+xml;base64,")}
    assert images
    for image in images:
        drawn = base64.b64decode(image.partition(",")[2]).decode()
        assert "<script" not in drawn and not re.search(r'href="(?!#)', drawn)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert references - images <= {f"#{one}" for one in ids} and len({*ids}) == len(ids)
    assert "default-src 'none'; style-src 'sha256-" in html.unescape(page)
    assert "prefers-color-scheme: dark" in page


def test_hostile_text_is_only_text(tmp_path, made):
    folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20, reply=HOSTILE)
    change(folder / "options.json", x=HOSTILE)
    change(folder / "judge" / "judge.json", judge=HOSTILE)
    reported.system(tmp_path, QWEN, "x<b>_|_$y$", 20)
    _, markdown, page = made(QWEN)
    assert "<script" not in page
    assert "x&lt;b&gt;_|_$y$" in page and "&lt;script&gt;alert(1)" in page
    assert not set("\x1b\x9b\u202e\u2066") & {*markdown, *page} and r"\x9b\u202e" in page
    assert "<script" not in markdown.replace("\\<", "") and "http://" not in markdown
    assert not re.search(r"(?<!\\)\[l\]|^# head", markdown, re.M)
    lines = [line for line in markdown.splitlines() if re.match(r"\| Vanilla SFT \| Ques", line)]
    assert lines and all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)


def test_without_a_comparison_overlapping_intervals_are_noise_and_said_to_be(runs, made):
    cell = row(tables(made(QWEN)[0])["table-differences"], RQ3)[0]
    assert (cell["shown"], cell["note"]) == ("+0.15", "inside the noise (overlap)")
    assert cell["paper"][0][1] == pytest.approx(89.84 - 91.37)
    change(runs / "decoupled_dpo" / "metrics.json", turns="others")
    found = row(tables(made(QWEN)[0])["table-differences"], RQ3)
    assert {one["shown"] for one in found} == {"of other turns"}


def test_a_paired_comparison_decides_and_the_page_begins_with_its_picture(tmp_path, runs, made):
    reported.compared(tmp_path, QWEN)
    value, _, page = made(QWEN)
    f1 = row(tables(value)["table-differences"], RQ3)[2]
    assert (f1["interval"], f1["note"]) == ("[+0.05, +0.25]", "higher, outside the noise")
    rq4 = row(tables(value)["table-rq4"], "Decoupled DPO less SFT")[-1]
    assert (rq4["shown"], rq4["interval"], rq4["n"]) == ("+7.5 %", "[+2.0, +13.0]", 38)
    assert rq4["paper"] == [["paper", 7.0]]
    drawn = {one["title"]: one for one in value["answers"]}
    shown = row(drawn["How near to the gold reply: F1"], RQ3.replace(" less ", " − "))[0]
    assert (shown["shown"], shown["interval"]) == ("+0.15", "[+0.05, +0.25]")
    assert len(drawn) == 5 and page.index("answer-rq4") < page.index('<article id="table-3"')


def test_a_system_of_another_split_is_not_shown_beside_the_others(tmp_path, made):
    for name in ("vanilla_sft", "vanilla_dpo", "decoupled_dpo"):
        folder = reported.system(tmp_path, QWEN, name, 20)
        split = "test" if name == "decoupled_dpo" else "validation"
        write(folder / "run.json", {"set": f"{split} of some.json, SPLIT=paper"})
    found = tables(made(QWEN)[0])["table-3"]
    assert {one["measured_on"] for one in found["rows"]} == {"", "test, 10 dialogues"}
    shown = {one["shown"] for one in row(found, "Vanilla SFT")}
    assert shown == {"of another split (validation, 10 dialogues)"}


def test_a_system_tested_on_what_it_was_trained_on_is_left_out_unless_forced(tmp_path, made, runs):
    seen = {"dialogues": 195, "seen": 151, "near": 3}
    write(runs / "decoupled_sft" / "run.json", {"set": "test of some.json, SPLIT=hf", "seen": seen})
    told = "151 of 195 tested dialogues are in the train set of the model that answers"
    report = made(QWEN)[0]
    shown = {one["shown"] for one in row(tables(report)["table-3"], "Decoupled SFT")}
    assert shown == {f"{told}; FORCE=1 shows it"}
    found = tables(made(QWEN, force=True)[0])["table-3"]
    assert {one["measured_on"] for one in found["rows"]} >= {f"test, 10 dialogues, {told}"}


def test_what_was_predicted_but_not_measured_names_eval_alone(tmp_path, runs, made):
    (runs / "decoupled_sft" / "judge" / "judge.json").unlink()
    todo = tables(made(QWEN)[0])["table-3"]["todo"]
    commands = {one["what"]: one["command"] for one in todo}
    assert commands[f"{QWEN} Decoupled SFT"] == f"make eval MODEL={QWEN} WORK={tmp_path}"
    assert commands[f"{QWEN} Vanilla SFT"].startswith(f"make sft-vanilla MODEL={QWEN} WORK=")


def test_examples_are_drawn_by_a_hash_and_hold_everybodys_words(runs, made):
    value, _, page = made(QWEN)
    assert [one["id"] for one in value["examples"]] == order(one["id"] for one in reported.rows())[
        :3
    ]
    first = value["examples"][0]
    assert [one["system"] for one in first["said"]] == ["Decoupled SFT", "Decoupled DPO"]
    assert first["said"][0]["reply"] == f"reply decoupled_sft {first['id']}"
    assert first["gold_reply"] in page


def test_where_the_dialogue_layout_alone_was_mined_its_pairs_are_counted_and_say_so(tmp_path, made):
    reported.whole(tmp_path, QWEN)
    runs = tmp_path / "runs" / QWEN
    (runs / "mining").rename(runs / "mining_dialogue")
    found, _, page = made(QWEN)
    assert f"{QWEN}, LAYOUT=dialogue: rg: judged by some-judge" in page
    assert f"runs/{QWEN}/mining_dialogue/stats/stats.json" in found["manifest"]["files"]


def test_the_manifest_names_files_options_and_the_commands_that_make_the_numbers(tmp_path, made):
    built = {"SPLIT": "seed:7", "LIMIT": 20, "CONSECUTIVE": "merge"}
    origin = {"origin": "my corpus.json"}
    write(tmp_path / "data" / "manifest.json", {"corpus": origin, "options": built})
    folder = reported.system(tmp_path, QWEN, "decoupled_sft", 20)
    change(folder / "options.json", SET="validation", LIMIT=8, DECODE="choice", TEMPERATURE=0.0)
    write(folder / "judge" / "options.json", {"JUDGE": f"{QWEN} (base)", "JUDGE_N": 30})
    write(folder / "errors" / "options.json", {"JUDGE": "random"})
    manifest = made(QWEN)[0]["manifest"]
    at = f"runs/{QWEN}/decoupled_sft"
    assert manifest["files"][f"{at}/metrics.json"] == reported.sha(folder / "metrics.json")
    assert f"{at}/predictions.jsonl" in manifest["files"] and manifest["commit"]
    assert manifest["options"][at]["SYSTEM"] == "decoupled"
    assert manifest["packages"]["nltk"] != "not installed"
    assert [re.sub(rf" (WORK=|--work ){tmp_path}", "", one) for one in manifest["commands"]] == [
        "make data 'ESCONV=my corpus.json' SPLIT=seed:7 LIMIT=20 CONSECUTIVE=merge",
        "python -m data_builders stats",
        f"make predict MODEL={QWEN} SYSTEM=decoupled STAGE=sft ROUND=1 SET=validation "
        "LIMIT=8 DECODE=choice TEMPERATURE=0.0",
        f"python -m eval judge --judge base --n 30 --model {QWEN}",
        f"python -m mining classify --judge random --model {QWEN}",
        f"python -m eval metrics --model {QWEN}",
        f"python -m eval compare --model {QWEN}",
        f"make report MODELS={QWEN}",
    ]


@pytest.mark.parametrize(
    ("path", "value", "fault", "renews"),
    [
        ("vanilla_sft/metrics.json", {"n": 3}, "no 'strategy'", "make eval"),
        ("vanilla_sft/errors/proportions.json", {"n": "many"}, 'n is "many"', "make eval"),
        ("human/human.json", {}, "no 'a'", "eval human"),
        ("../../saves/qwen2.5-7b/sp_dpo/drift.json", {}, "no 'kl'", "make dpo-sp"),
    ],
)
def test_a_file_of_another_shape_is_one_line_with_the_step_that_renews_it(
    tmp_path, capsys, path, value, fault, renews
):
    file = write(tmp_path / "runs" / QWEN / path, value)
    assert cli.run(main, ["--models", QWEN, "--work", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(one in line for one in (file.name, fault, renews, "renews it"))


def test_what_rounds_to_nothing_has_no_sign():
    assert [cell(-0.001)["shown"], cell(-0.5)["shown"]] == ["0.00", "-0.50"]


def test_a_system_of_the_dialogue_layout_says_what_it_sees(runs, made):
    change(runs / "decoupled_sft" / "options.json", LAYOUT="dialogue")
    _, markdown, page = made(QWEN)
    for shown in (markdown, page):
        assert "a row a dialogue: sees the gold strategies so far" in shown
