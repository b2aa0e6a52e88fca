"""The report: everything of the paper, filled or not run, in three forms from one object."""

import base64
import html
import json
import re
from functools import partial
from html.parser import HTMLParser

import pytest
import reported
from reported import number, write

from esc import backbones, cli
from esc.citation import BIBTEX
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED, order
from esc.psych_errors import PsychError
from esc.visible import plain
from eval import paper
from eval.report.page import main
from eval.report.parts import Cell

EMBEDDED, QWEN, LLAMA = "smollm2-135m", "qwen2.5-7b", "llama3.1-8b"
RQ3 = "RQ3: Decoupled DPO less Decoupled SFT"
OF_THE_PAPER = (
    *("table-1-esconv", "table-1-pairs", "table-2", "table-3", "table-4", "table-5", "table-6"),
    *("figure-2", "figure-3", "figure-4a", "figure-4b"),
    *("figure-6", "figure-7", "figure-8", "figure-9", "figure-10"),
)


def cells(value):
    """Every cell of a report's JSON."""
    if isinstance(value, dict):
        if "shown" in value and "form" in value:
            yield value
        for one in value.values():
            yield from cells(one)
    elif isinstance(value, list):
        for one in value:
            yield from cells(one)


def tables(value):
    items = [item for section in value["sections"] for item in section["items"]]
    return {one["name"]: one for one in (item.get("table", item) for item in items)}


def row(table, label, group=""):
    return next(
        one for one in table["rows"] if one["label"] == label and group in ("", one["group"])
    )


def written(work, *models):
    """Run the step; (JSON, Markdown, HTML) of what it wrote."""
    assert cli.run(main, ["--models", *models, "--work", str(work)]) == 0
    folder = work / "runs" / (models[0] if len(models) == 1 else "")
    texts = [(folder / f"report.{end}").read_text() for end in ("json", "md", "html")]
    return json.loads(texts[0]), texts[1], texts[2]


@pytest.fixture
def made(tmp_path):
    """The step, in the test's own folder."""
    return partial(written, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, the three forms) of a backbone with everything run."""
    work = reported.whole(tmp_path_factory.mktemp("whole"), QWEN)
    return work, written(work, QWEN)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The three forms of two backbones with everything run."""
    work = tmp_path_factory.mktemp("both")
    reported.whole(work, QWEN, base=20)
    reported.whole(work, LLAMA, base=30)
    return written(work, QWEN, LLAMA)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The three forms of the embedded model."""
    # The model alone makes it so: its own files do not say it.
    work = reported.whole(tmp_path_factory.mktemp("smoke"), EMBEDDED)
    reported.data(work, smoke=True)
    failed = "runs/failed_esconv/errors/proportions.json"
    write(work / failed, reported.proportions(smoke=True))
    return written(work, EMBEDDED)


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the step; the one line it ends with."""

    def run(model):
        assert cli.run(main, ["--models", model, "--work", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_every_form_of_the_report_cites_the_paper(made):
    value, markdown, page = made(EMBEDDED)
    assert value["citation"] == BIBTEX and BIBTEX in markdown and html.escape(BIBTEX) in page


def test_without_any_run_every_table_is_there_and_says_what_fills_it(made):
    value, markdown, page = made(EMBEDDED)
    found = tables(value)
    for name in OF_THE_PAPER:
        assert found[name]["status"] == "not run", name
        assert found[name]["todo"], name
        assert f'id="{name}"' in page
        for todo in found[name]["todo"]:
            assert todo["command"].startswith(("make ", "python -m eval human"))
            assert html.escape(todo["command"]) in page
            assert todo["command"] in markdown
    assert "SMOKE" not in json.dumps(value)
    assert value["examples_todo"]


def test_a_whole_run_fills_every_table(whole):
    value, _, page = whole[1]
    found = tables(value)
    for name in OF_THE_PAPER:
        assert found[name]["status"] in ("run", "partly run"), name
    for name in (*(one for one in OF_THE_PAPER if one.startswith("figure")), "figure-bias"):
        article = page.partition(f'<article id="{name}">')[2].partition("</article>")[0]
        assert "<picture>" in article, f"{name} is drawn"
    assert len(value["examples"]) == 3


def test_a_judge_whose_answers_are_all_unscored_has_run(tmp_path, made):
    reported.pairs_judged(tmp_path, QWEN)
    path = tmp_path / "runs" / QWEN / "pairs_judge" / "judge.json"
    known = json.loads(path.read_text())
    nobody = {"value": None, "low": None, "high": None, "n": 0}
    difference = nobody | {"percent": None, "inside_the_noise": None}
    for one in known["dimensions"].values():
        one |= {"chosen": nobody, "rejected": nobody, "difference": difference}
    write(path, known)
    found = tables(made(QWEN)[0])["table-2"]
    assert found["status"] == "run"
    chosen = row(found, "chosen")["cells"][0]
    assert (chosen["shown"], chosen["note"]) == ("undefined", "none scored")


def test_a_figure_whose_numbers_are_all_undefined_is_not_drawn_and_says_so(tmp_path, made):
    folder = reported.system(tmp_path, QWEN, "decoupled_sft", 20)
    none = {"count": 0, "share": None, "low": None, "high": None}
    empty = {"n": 0, "errors": {one.value: none for one in PsychError}}
    write(folder / "errors" / "proportions.json", reported.proportions(smoke=False) | empty)
    value, _, page = made(QWEN)
    assert tables(value)["figure-7"]["status"] == "partly run"
    for name, why in (("figure-7", "undefined"), ("figure-2", "not run")):
        article = page.partition(f'<article id="{name}">')[2].partition("</article>")[0]
        assert "<picture" not in article
        assert f'<p class="gap">{why}</p>' in article


def test_the_paper_stands_beside_its_own_backbones_and_both_beside_any_other(tmp_path, made):
    reported.system(tmp_path, EMBEDDED, "decoupled_dpo", 20)
    (bias,) = row(tables(made(EMBEDDED)[0])["table-3"], "Decoupled DPO")["cells"][8:9]
    assert bias["paper"] == [["Qwen", 0.22], ["Llama", 0.15]]
    assert bias["value"] == 0.2
    found = tables(made(QWEN)[0])["table-3"]
    (bias,) = row(found, "Decoupled DPO")["cells"][8:9]
    assert (bias["paper"], bias["shown"]) == ([["paper", 0.22]], "not run")


def test_every_number_is_the_same_in_all_three_forms(whole):
    value, markdown, page = whole[1]
    told = html.unescape(page)
    count = 0
    for cell in cells(value):
        assert cell["shown"] in told
        assert plain(cell["shown"]) in markdown
        assert cell["interval"] in told
        assert plain(cell["interval"]) in markdown
        count += cell["value"] is not None
    assert count > 300


def test_every_printed_value_of_the_paper_is_in_the_report_of_its_backbone(tmp_path, made):
    value, markdown, _ = made(QWEN, LLAMA)
    shown = {one for cell in cells(value) for _, one in cell["paper"]}
    for table in (paper.TABLE_3, paper.TABLE_5, paper.TABLE_4):
        for column in table.values():
            for values in column.values():
                assert {one for one in values if one is not None} <= shown
    for sides in paper.TABLE_2.values():
        for values in sides.values():
            assert {*values} <= shown
    for values in paper.TABLE_1_PAIRS.values():
        assert {*values} <= shown
    assert {*paper.TABLE_6.values(), *paper.TABLE_6_SHARES.values()} <= shown
    assert {*paper.TABLE_1_ESCONV.values()} <= shown
    assert "paper 29,526" in markdown


def test_the_papers_tables_add_up_as_printed():
    assert sum(paper.TABLE_6.values()) == 14763
    for total, qwen, llama in list(paper.TABLE_1_PAIRS.values())[:2]:
        assert total == qwen + llama
    assert sum(one[1] for one in list(paper.TABLE_1_PAIRS.values())[4:]) == 6041
    for table in (paper.TABLE_3, paper.TABLE_5):
        assert all(len(row) == 11 for column in table.values() for row in column.values())
    for column in ("Qwen", "Llama"):
        same = paper.TABLE_5[column]["vanilla_dpo"]
        assert same == paper.TABLE_3[column]["vanilla_dpo"]


class TestSmoke:
    """Whatever the embedded model, a random judge or the sample corpus made is marked."""

    def test_in_json_once_for_each_table_figure_and_example(self, smoke):
        value, _, _ = smoke
        assert value["banner"].startswith("SMOKE")
        for table in tables(value).values():
            filled = any(
                one["value"] is not None for each in table["rows"] for one in each["cells"]
            )
            assert table["mark"] == ("SMOKE" if filled else "")
        assert all(example["smoke"] for example in value["examples"])
        assert not any({"mark", "smoke"} & {*cell} for cell in cells(value))

    def test_in_markdown_in_each_heading(self, smoke):
        _, markdown, _ = smoke
        assert "> **SMOKE**" in markdown
        headings = re.findall(r"^### (?:Table|Figure|Turn) .*", markdown, re.M)
        assert headings
        assert all("SMOKE" in heading for heading in headings)

    def test_in_html_in_the_page_title_and_each_heading_and_in_no_cell(self, smoke):
        _, _, page = smoke
        assert '<p class="banner"' in page
        assert page.index("<title>SMOKE") > 0
        for title in re.findall(r"<h3>(.*?)</h3>", page, re.S):
            assert "SMOKE" in title
        assert not [one for one in re.findall(r"<td.*?</td>", page, re.S) if "SMOKE" in one]

    def test_a_random_judge_marks_its_own_columns_and_no_others(self, tmp_path, made):
        folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20)
        digest = reported.sha(folder / "predictions.jsonl")
        write(folder / "judge" / "judge.json", reported.judged(2, digest, smoke=True))
        value, _, _ = made(QWEN)
        assert tables(value)["table-3"]["mark"] == "SMOKE: Flu. ↑, Pro. ↑, Emp. ↑, Hel. ↑"
        assert value["smoke"]

    def test_real_runs_carry_none(self, whole):
        value, markdown, page = whole[1]
        assert "SMOKE" not in markdown
        assert ">SMOKE" not in page
        assert not value["smoke"]


class _Page(HTMLParser):
    """Tags, and every attribute that could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.ids, self.styles = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "style" or name.startswith("on"):
                self.styles.append(value)


def test_the_page_needs_nothing_and_runs_nothing(both):
    _, _, page = both
    found = _Page(page)
    assert "script" not in found.tags
    assert "link" not in found.tags
    images = [one for one in found.references if one.startswith("data:image/svg+xml;base64,")]
    assert images
    links = {*found.references} - {*images}
    assert all(one.startswith("#") for one in links)
    assert {one[1:] for one in links} <= {*found.ids}
    for image in images:
        drawn = base64.b64decode(image.partition(",")[2]).decode()
        assert "<script" not in drawn and not re.search(r'href="(?!#)', drawn)
    assert len({*found.ids}) == len(found.ids)
    assert not found.styles
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "default-src 'none'; style-src 'sha256-" in html.unescape(page)
    assert "prefers-color-scheme: dark" in page


HOSTILE = (
    "<script>alert(1)</script> | `x` **b** [l](javascript:y) \n# head </td> http://bad.example"
    " \x1b[2J\x9b\u202e\u2066"
)


def test_hostile_text_is_only_text(tmp_path, made):
    folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20, reply=HOSTILE)
    options = json.loads((folder / "options.json").read_text())
    write(folder / "options.json", options | {"x": HOSTILE})
    broken = reported.judged(2, reported.sha(folder / "predictions.jsonl"), smoke=False)
    write(folder / "judge" / "judge.json", broken | {"judge": HOSTILE})
    reported.system(tmp_path, QWEN, "x<b>_|_$y$", 20)
    _, markdown, page = made(QWEN)
    assert "script" not in _Page(page).tags
    assert "x&lt;b&gt;_|_$y$" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in markdown.replace("\\<", "")
    assert not set("\x1b\x9b\u202e\u2066") & {*markdown, *page} and r"\x9b\u202e" in page
    assert not re.search(r"(?<!\\)\[l\]", markdown)
    assert "http://" not in markdown
    for line in markdown.splitlines():
        assert not line.startswith("# head")
    lines = [line for line in markdown.splitlines() if re.match(r"\| Vanilla SFT +\| Ques", line)]
    assert lines
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)


def test_the_figures_of_errors_say_what_their_intervals_resample(whole):
    found = tables(whole[1][0])
    told = "classified by some-judge; intervals: 95 %, by dialogue."
    assert f"{QWEN}: {told}" in found["figure-7"]["notes"]
    assert {f"{QWEN}: {told}", f"FailedESConv: {told}"} <= {*found["figure-2"]["notes"]}


def test_two_backbones_stand_side_by_side(both):
    value, _, _ = both
    found = tables(value)
    assert found["table-1-pairs"]["columns"] == [QWEN, LLAMA, "both of the paper's"]
    label = "Decoupled DPO"
    (one, other) = (row(found["table-3"], label, model)["cells"][2] for model in (QWEN, LLAMA))
    assert (other["value"] - one["value"], one["paper"], other["paper"]) == (
        pytest.approx(10),
        [["paper", 22.86]],
        [["paper", 22.59]],
    )
    assert {one["model"] for one in value["examples"]} == {QWEN, LLAMA}


def test_baselines_stand_under_the_systems_with_the_sentence_on_bias(tmp_path, made):
    reported.system(tmp_path, QWEN, "decoupled_sft", 20)
    found = tables(made(QWEN)[0])["table-3"]
    labels = [one["label"] for one in found["rows"]][-4:]
    assert labels == [
        f"baseline: {name}" for name in ("gold", "majority", "uniform", "gold-marginal-random")
    ]
    assert "Bias alone shows no skill" in found["notes"][0]


def test_a_difference_inside_overlapping_intervals_is_called_noise_and_says_so(tmp_path, made):
    reported.system(tmp_path, QWEN, "decoupled_sft", 20.0)
    reported.system(tmp_path, QWEN, "decoupled_dpo", 20.15)
    found = tables(made(QWEN)[0])["table-differences"]
    (cell,) = row(found, RQ3)["cells"][:1]
    assert (cell["shown"], cell["note"]) == ("+0.15", "inside the noise (overlap)")
    assert cell["paper"][0][1] == pytest.approx(89.84 - 91.37)


@pytest.fixture
def compared(tmp_path):
    """Two systems with a paired comparison of one number; their folders."""
    folders = [
        reported.system(tmp_path, QWEN, name, base)
        for name, base in (("decoupled_sft", 20.0), ("decoupled_dpo", 20.15))
    ]
    paired = {"difference": 0.15, "low": 0.05, "high": 0.25, "verdict": "higher, outside the noise"}
    a, b = (folder.name for folder in folders)
    write(
        tmp_path / "runs" / QWEN / "comparisons.json",
        {
            "comparisons": [
                {
                    "a": a,
                    "b": b,
                    "n": 40,
                    "numbers": {"text.paper.f1": paired},
                    "errors": {
                        "n": 38,
                        "shares": {"None": paired | {"difference": 8.5, "low": 2.0, "high": 15.0}},
                        "interval": "95 %",
                        "reason": None,
                    },
                }
            ],
            "left_out": [],
            "smoke": False,
            "made_with": {
                "predictions": {
                    folder.name: reported.sha(folder / "predictions.jsonl") for folder in folders
                }
            },
        },
    )
    return folders


def test_a_paired_comparison_decides_where_there_is_one(compared, made):
    found = tables(made(QWEN)[0])["table-differences"]
    cells = row(found, RQ3)["cells"]
    assert (cells[2]["interval"], cells[2]["note"]) == (
        "[+0.05, +0.25]",
        "higher, outside the noise",
    )
    assert cells[1]["note"].endswith("(overlap)")
    assert not found["todo"]


def test_a_paired_comparison_of_other_predictions_is_left_out_and_said(tmp_path, compared, made):
    # Predicted and measured anew, but not compared.
    reported.system(tmp_path, QWEN, "decoupled_dpo", 20.15, reply="another reply")
    found = tables(made(QWEN)[0])["table-differences"]
    cell = row(found, RQ3)["cells"][2]
    assert (cell["shown"], cell["interval"]) == ("+0.15", "")
    assert cell["note"] == "inside the noise (overlap)"
    assert any("decoupled_sft and decoupled_dpo is out of date" in note for note in found["notes"])
    assert [one["command"] for one in found["todo"]] == [f"make eval MODEL={QWEN} WORK={tmp_path}"]


def test_rq4_is_a_paired_difference_of_shares_beside_the_papers(compared, made):
    found = tables(made(QWEN)[0])["table-rq4"]
    cell = row(found, "Decoupled DPO less SFT")["cells"][-1]
    assert (cell["shown"], cell["interval"], cell["n"]) == ("+8.5 %", "[+2.0, +15.0]", 38)
    assert cell["paper"] == [["paper", 7.0]]


def test_the_papers_questions_are_drawn_as_differences(compared, made):
    value, _, page = made(QWEN)
    told = {one["table"]["title"]: one["table"] for one in value["answers"]}
    f1 = row(told["How near to the gold reply: F1"], RQ3.replace(" less ", " − "))["cells"][0]
    assert (f1["shown"], f1["interval"]) == ("+0.15", "[+0.05, +0.25]")
    assert len(told) == 5 and page.index("answer-rq4") < page.index('<article id="table-3"')


def of_split(folder, split, turns, dialogues=10):
    write(folder / "run.json", {"set": f"{split} of some.json, SPLIT=paper"})
    found = json.loads((folder / "metrics.json").read_text())
    write(folder / "metrics.json", found | {"turns": turns, "dialogues": dialogues})


def test_a_system_of_another_split_is_not_shown_beside_the_others(tmp_path, made):
    for name in ("vanilla_sft", "vanilla_dpo", "decoupled_sft"):
        of_split(reported.system(tmp_path, QWEN, name, 20), "validation", "v")
    of_split(reported.system(tmp_path, QWEN, "decoupled_dpo", 20), "test", "t", 12)
    found = tables(made(QWEN)[0])["table-3"]
    assert row(found, "Decoupled DPO")["measured_on"] == "test, 12 dialogues"
    shown = {one["shown"] for one in row(found, "Vanilla SFT")["cells"]}
    assert shown == {"of another split (validation, 10 dialogues)"}


def test_numbers_of_other_turns_of_a_split_are_not_subtracted(tmp_path, made):
    of_split(reported.system(tmp_path, QWEN, "decoupled_sft", 20), "test", "some")
    of_split(reported.system(tmp_path, QWEN, "decoupled_dpo", 21), "test", "others")
    found = tables(made(QWEN)[0])["table-differences"]
    assert {one["shown"] for one in row(found, RQ3)["cells"]} == {"of other turns"}


def test_measurements_of_other_predictions_are_out_of_date_not_shown(tmp_path, made):
    folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20)
    with (folder / "predictions.jsonl").open("a") as stream:
        stream.write(json.dumps(reported.rows()[0] | {"id": "99-0"}) + "\n")
    value, _, _ = made(QWEN)
    shown = {one["shown"] for one in row(tables(value)["table-3"], "Vanilla SFT")["cells"]}
    assert shown == {"out of date"}


def test_statistics_of_sets_built_anew_are_out_of_date_not_shown(tmp_path, made):
    reported.data(tmp_path)
    assert tables(made(QWEN)[0])["table-6"]["status"] == "run"
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    manifest["options"] |= {"LIMIT": 20, "SPLIT": "seed:7"}
    write(tmp_path / "data" / "manifest.json", manifest)
    found = tables(made(QWEN)[0])
    for name in ("table-1-esconv", "table-6", "figure-8"):
        assert {one["shown"] for one in cells(found[name])} == {"out of date"}
        assert found[name]["status"] == "out of date"
        # What is built now must not be replaced by the target that counts it.
        command = f"make stats WORK={tmp_path} SPLIT=seed:7 LIMIT=20"
        assert [one["command"] for one in found[name]["todo"]] == [command]


def test_what_was_predicted_but_not_measured_names_eval_alone(tmp_path, made):
    folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20)
    (folder / "judge" / "judge.json").unlink()
    todo = tables(made(QWEN)[0])["table-3"]["todo"]
    commands = {one["what"]: one["command"] for one in todo}
    work = f"WORK={tmp_path}"
    assert commands[f"{QWEN} Vanilla SFT"] == f"make eval MODEL={QWEN} {work}"
    assert commands[f"{QWEN} Decoupled SFT"].startswith(f"make sft-sp MODEL={QWEN} {work} && ")


def test_examples_are_drawn_by_a_hash_and_hold_everybodys_words(tmp_path, made):
    for name in ("vanilla_sft", "decoupled_sft"):
        reported.system(tmp_path, QWEN, name, 20)
    value, _, page = made(QWEN)
    ids = [one["id"] for one in reported.rows()]
    assert [one["id"] for one in value["examples"]] == order(ids)[:3]
    (first, *_) = value["examples"]
    assert [one["system"] for one in first["said"]] == ["Vanilla SFT", "Decoupled SFT"]
    assert first["gold_reply"] in page
    assert first["said"][1]["reply"] == f"reply decoupled_sft {first['id']}"


def test_the_manifest_names_every_file_that_was_read(whole):
    work, (value, _, _) = whole
    manifest = value["manifest"]
    folder = f"runs/{QWEN}/vanilla_sft"
    digest = reported.sha(work / folder / "metrics.json")
    assert manifest["files"][f"{folder}/metrics.json"] == digest
    assert f"{folder}/predictions.jsonl" in manifest["files"]
    assert manifest["options"][folder]["SYSTEM"] == "vanilla"
    assert manifest["packages"]["nltk"] != "not installed"
    assert any("predict" in one and "STAGE=sft" in one for one in manifest["commands"])
    assert manifest["signatures"]["table-3 B-1 ↑"].startswith("signature|")
    assert manifest["commit"]


class TestCommands:
    """The manifest's commands make the sets, predictions and scores that the numbers are of."""

    @pytest.fixture
    def commands(self, tmp_path, made):
        """Commands for one run and sets that were made with the given options, without WORK."""

        def of(*, corpus="sample", built=None, predicted=None, judged=None, model=QWEN):
            options = {"SPLIT": "seed:42", "LIMIT": None, "CONSECUTIVE": "separate"}
            manifest = {"corpus": {"origin": corpus}, "options": options | (built or {})}
            write(tmp_path / "data" / "manifest.json", manifest)
            folder = reported.system(tmp_path, model, "decoupled_sft", 20)
            options = json.loads((folder / "options.json").read_text()) | (predicted or {})
            write(folder / "options.json", options)
            if judged:
                write(folder / "judge" / "options.json", judged)
                errors = json.loads((folder / "errors" / "options.json").read_text())
                is_own = judged["JUDGE"].endswith("(base)")
                name = backbones.get(model).judge if is_own else judged["JUDGE"]
                write(folder / "errors" / "options.json", errors | {"JUDGE": name})
            told = made(model)[0]["manifest"]["commands"]
            return [re.sub(rf" (WORK=|--work ){tmp_path}", "", one) for one in told]

        return of

    def test_name_every_option_that_is_not_the_default(self, commands):
        assert commands(
            corpus="my corpus.json",
            built={"SPLIT": "seed:7", "LIMIT": 20, "CONSECUTIVE": "merge"},
            predicted={"SET": "validation", "LIMIT": 8, "DECODE": "choice", "TEMPERATURE": 0.0},
            judged={"JUDGE": "a-judge", "JUDGE_N": 30, "weights": {}},
        ) == [
            "make data 'ESCONV=my corpus.json' SPLIT=seed:7 LIMIT=20 CONSECUTIVE=merge",
            "make stats SPLIT=seed:7 LIMIT=20 CONSECUTIVE=merge",
            f"make predict MODEL={QWEN} SYSTEM=decoupled STAGE=sft SET=validation LIMIT=8 "
            "DECODE=choice TEMPERATURE=0.0",
            f"make eval MODEL={QWEN} JUDGE=a-judge JUDGE_N=30",
            f"make report MODEL={QWEN}",
        ]

    def test_leave_out_what_is_the_default(self, commands):
        judge = backbones.get(QWEN).judge
        assert commands(
            corpus="https://example.org/ESConv.json",
            built={"SPLIT": "paper"},
            predicted={
                "SET": "test",
                "LIMIT": None,
                "DECODE": "free",
                "ROUND": 1,
                "TEMPERATURE": 0.7,
            },
            judged={"JUDGE": judge, "JUDGE_N": JUDGED, "weights": {}},
        ) == [
            "make data",
            "make stats",
            f"make predict MODEL={QWEN} SYSTEM=decoupled STAGE=sft",
            f"make eval MODEL={QWEN}",
            f"make report MODEL={QWEN}",
        ]

    def test_know_that_the_embedded_model_judges_its_own_runs(self, commands):
        own = {"JUDGE": f"{EMBEDDED} (base)", "weights": {"base": "0"}}
        assert "make eval" in commands(model=EMBEDDED, judged=own | {"JUDGE_N": JUDGED_BY_EMBEDDED})
        assert "make eval JUDGE_N=7" in commands(model=EMBEDDED, judged=own | {"JUDGE_N": 7})
        drawn = {"JUDGE": "random", "JUDGE_N": JUDGED, "weights": {}}
        assert "make eval JUDGE=random" in commands(model=EMBEDDED, judged=drawn)


def test_the_same_sources_give_the_same_report(whole):
    work, forms = whole
    assert written(work, QWEN) == forms


@pytest.mark.parametrize(
    ("path", "value", "fault", "renews"),
    [
        ("vanilla_sft/metrics.json", {"n": 3}, "no 'strategy'", "make eval"),
        ("vanilla_sft/judge/judge.json", [], "the whole file", "make eval"),
        ("vanilla_sft/errors/proportions.json", {"n": "many"}, "n is", "make eval"),
        ("pairs_judge/judge.json", {}, "no 'judge'", "make eval"),
        ("mining/stats/stats.json", {}, "no 'notes'", "make mine"),
        ("comparisons.json", {"smoke": False}, "no 'comparisons'", "make eval"),
        ("human/human.json", {}, "no 'a'", "eval human"),
        ("../../saves/qwen2.5-7b/sp_dpo/drift.json", {}, "no 'kl'", "make dpo-sp"),
        ("../../data/stats/stats.json", {}, "no 'notes'", "make stats"),
    ],
)
def test_a_file_of_another_shape_is_one_line_with_the_step_that_renews_it(
    tmp_path, refused, path, value, fault, renews
):
    file = tmp_path / "runs" / QWEN / path
    write(file, value)
    line = refused(QWEN)
    assert fault in line
    assert f"{renews}" in line
    assert "renews it" in line
    assert file.name in line


def test_a_number_that_is_none_is_refused_by_name(tmp_path, refused):
    folder = reported.system(tmp_path, QWEN, "vanilla_sft", 20)
    found = json.loads((folder / "metrics.json").read_text())
    found["text"]["paper"]["bleu1"]["value"] = "high"
    write(folder / "metrics.json", found)
    assert 'text.paper.bleu1.value is "high"' in refused(QWEN)


def test_an_unknown_backbone_is_one_line(refused):
    assert "unknown MODEL" in refused("gpt-17")


def test_an_undefined_number_says_why(tmp_path, made):
    reported.system(tmp_path, QWEN, "vanilla_sft", 20)
    extras = tables(made(QWEN)[0])["table-strategies"]
    cell = row(extras, "Vanilla SFT")["cells"][1]
    assert (cell["shown"], cell["note"]) == ("undefined", "no record has a distribution")
    assert number(None)["value"] is None


def test_what_rounds_to_nothing_has_no_sign():
    assert Cell(-0.001).shown == "0.00"
    assert Cell(-0.5).shown == "-0.50"
