"""The page: its votes, filters and answers as plain functions, and each tab in a real browser."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from predicted import rows, save

from esc import cli, files, paths, policy_server, sheets
from esc.files import EscError
from esc.paths import EMBEDDED
from eval import human
from eval.ui import app, check, compare, read, talk
from mining import audit, converse

HOSTILE = "<script>window.hit=1</script> <img src=x onerror=window.hit=1> [a](http://b) \u202e\x1b"
SHOWN = r"<script>window.hit=1</script> <img src=x onerror=window.hit=1> [a](http://b) \u202e\x1b"
ERROR = "Lack of Empathy"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def predictions(work):
    """Two systems' predictions, the second with replies that would be more than text."""
    root = work / "runs" / EMBEDDED
    for name, reply in (("decoupled_sft", None), ("vanilla_sft", HOSTILE)):
        told = rows() if reply is None else rows(reply=reply, predicted_strategy="Others")
        save(root / name / "predictions.jsonl", told)
        files.write_json(root / name / "run.json", {})


def audit_sheet(work):
    """An audit of three pairs, as `mining.audit` leaves it."""
    folder = work / paths.mining(EMBEDDED) / "audit" / "rg"
    names = ("record", "error", "conversation", "seeker", "strategy", "gold", "rejected")
    blank = {"explanation": "it is cold", "answer": "", "comment": ""}
    told = [
        dict.fromkeys(names, HOSTILE) | {"record": f"r{n}", "error": ERROR} | blank
        for n in range(3)
    ]
    files.write_text(folder / audit.CSV, sheets.csv_text([*told[0]], told))
    about = {"task": "rg", "model": EMBEDDED, "sampler": "rg-sft", "judge": "m", "smoke": True}
    records = {row["record"]: ERROR for row in told}
    files.write_json(folder / audit.DONE, about | {"n": 3, "pairs": "0" * 64, "records": records})
    return folder


@pytest.fixture
def work(sample_work, tmp_path):
    shutil.copytree(sample_work / "data", tmp_path / "data")
    predictions(tmp_path)
    return tmp_path


@pytest.fixture
def sheet(work):
    return compare.sheet_of(work, EMBEDDED, "decoupled_sft", "vanilla_sft")


def vote_all(folder, name, records, choices="A"):
    for record in records:
        for column in compare.ASKED:
            compare.vote(folder, name, record, column, choices)


def test_votes_are_read_back_by_eval_human(sheet, capsys):
    records = compare.opened(sheet)["records"]
    vote_all(sheet, "anna", records[:5])
    argv = ["--out", str(sheet), "--read", str(sheet / "votes_anna.csv")]
    assert cli.run(human.main, argv) == 0
    found = files.read_json(sheet / "human.json")
    assert found["annotators"]["anna"]["votes"] == 5 * len(compare.ASKED)
    key = files.read_json(sheet / "key.json")["records"]
    ours = sum(key[record]["A"] == "a" for record in records[:5])
    for dimension in ("Fluency", "Overall"):
        assert found["dimensions"][dimension]["votes"]["win"] == ours


def test_a_vote_is_taken_back_and_the_first_open_turn_is_where_one_goes_on(sheet):
    records = compare.opened(sheet)["records"]
    vote_all(sheet, "ben", records[:2])
    votes = compare.vote(sheet, "ben", records[2], "fluency", "tie")
    assert compare.resume(votes, records) == 2
    votes = compare.vote(sheet, "ben", records[1], "", "")
    assert compare.open_question(votes, records[1]) == len(compare.ASKED) - 1
    assert compare.resume(votes, records) == 1
    assert "turn 2 of 20, 1 answered" in compare.question(votes, records, 1).lower()


def test_two_annotators_at_once_and_one_in_two_tabs_lose_nothing(sheet):
    records = compare.opened(sheet)["records"]
    given = [(name, record) for name in ("anna", "ben", "ben") for record in records[:6]]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: compare.vote(sheet, *one, "fluency", "B"), given))
    # In two tabs the same question is answered once.
    filled = {"anna": 6, "ben": 6}
    for name, count in filled.items():
        votes = compare.read_votes(sheet, name)
        assert sum(bool(one) for row in votes.values() for one in row.values()) == count


def test_a_comment_that_a_person_wrote_stays_and_a_wrong_word_is_one_line(sheet):
    (first, second, *_) = compare.opened(sheet)["records"]
    compare.vote(sheet, "anna", first, "fluency", "A")
    path = sheet / "votes_anna.csv"
    text = path.read_text().replace('"A","","","","",""', '"A","","","","","too long","9"')
    path.write_text(text.replace('"comment"', '"comment","minutes"'))
    compare.vote(sheet, "anna", second, "fluency", "B")
    assert '"too long","9"' in path.read_text() and '"minutes"' in path.read_text()
    path.write_text(path.read_text().replace('"A"', '"C"'))
    with pytest.raises(EscError, match=r"votes_anna.csv: row 2 .*'C' is none of A, B, tie"):
        compare.vote(sheet, "anna", second, "fluency", "B")


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_a_name_that_makes_no_file_is_refused(sheet, name):
    with pytest.raises(EscError, match="say who you are first"):
        compare.vote(sheet, name, compare.opened(sheet)["records"][0], "fluency", "A")


def test_a_vote_is_of_the_question_that_was_shown(sheet):
    (record, *_) = compare.opened(sheet)["records"]
    votes = compare.vote(sheet, "anna", record, "empathy", "A")
    assert compare.open_question(votes, record) == 0


def test_names_are_shown_when_all_is_answered(sheet):
    records = compare.opened(sheet)["records"]
    vote_all(sheet, "anna", records[:-1])
    with pytest.raises(EscError, match="1 turns are not answered yet"):
        compare.named(sheet, "anna", records, 0)
    vote_all(sheet, "anna", records[-1:])
    assert "A is " in compare.named(sheet, "anna", records, 0)


def test_a_sheet_of_predictions_that_changed_is_told_and_the_order_of_two_systems_is_no_matter(
    sheet, work
):
    assert compare.sheet_of(work, EMBEDDED, "vanilla_sft", "decoupled_sft") == sheet
    save(work / "runs" / EMBEDDED / "vanilla_sft" / "predictions.jsonl", rows(reply="new"))
    with pytest.raises(EscError, match="of other predictions than there are now"):
        compare.sheet_of(work, EMBEDDED, "decoupled_sft", "vanilla_sft")


@pytest.mark.parametrize("key", ["{}", '{"records": []}'])
def test_a_broken_key_is_one_line(sheet, key):
    (sheet / "key.json").write_text(key)
    with pytest.raises(EscError, match="is no key of a sheet"):
        compare.opened(sheet)


def test_a_live_comparison_keeps_who_is_where_and_no_word_of_it(work):
    folder = work / "live"
    sheet = compare.live(folder, "x_base", "y_base", smoke=True)
    turn = {"said": "my secret", "reply": "its secret"}
    sheet = compare.heard(sheet, "my secret", {"a": [turn], "b": [turn]})
    (record,) = sheet["records"]
    vote_all(folder, "anna", [record], "tie")
    kept = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "secret" not in kept
    assert {*files.read_json(folder / "key.json")["records"][record].values()} == {"a", "b"}
    votes = folder / "votes_anna.csv"
    assert cli.run(human.main, ["--out", str(folder), "--read", str(votes)]) == 0


def test_an_answer_is_yes_where_the_judges_error_was_named_before_it_was_shown(work):
    folder = audit_sheet(work)
    assert check.answer(folder, "r0", [ERROR, "Other"]) == "yes"
    assert check.answer(folder, "r1", [check.NOTHING]) == "no"
    assert check.answer(folder, "r2", [check.UNSURE]) == "unsure"
    rows = check.rows_of(folder)
    assert [row["answer"] for row in rows] == ["yes", "no", "unsure"] and check.resume(rows) == 2
    mining = check.Mining(work, EMBEDDED, "rg", paths.PAPER)
    told = check.precision(mining)
    assert told == "precision 50% of 2 answers, 1 unsure, 0 to go"
    assert files.read_json(folder / audit.PRECISION)["all"]["precision"] == 0.5


@pytest.mark.parametrize(
    ("record", "named", "told"),
    [
        ("r0", [], "name what is wrong"),
        ("r0", [ERROR, check.NOTHING], "name what is wrong"),
        ("", [ERROR], "no pair is not open"),
        ("r1", [ERROR], "r1 is not open for an answer"),
    ],
)
def test_an_answer_is_of_a_pair_that_is_open_and_says_something(work, record, named, told):
    folder = audit_sheet(work)
    check.answer(folder, "r1", [check.NOTHING])
    with pytest.raises(EscError, match=told):
        check.answer(folder, record, named)
    assert [row["answer"] for row in check.rows_of(folder)] == ["", "no", ""]


@pytest.mark.parametrize(
    ("systems", "right", "text", "count"),
    [
        ([], "any", "", 80),
        (["vanilla_sft"], "any", "", 40),
        ([], "right", "", 40),
        ([], "wrong", "", 40),
        ([], "any", "REPLY 3 2", 1),
        (["vanilla_sft"], "right", "", 0),
    ],
)
def test_filters_let_through_what_they_name(work, systems, right, text, count):
    every, wrong = read.everything(work, EMBEDDED)
    found = read.matching(every, "predictions", systems, right, "", text)
    assert len(found) == count and not wrong


def test_the_error_of_a_reply_is_the_classifiers(work):
    folder = work / "runs" / EMBEDDED / "vanilla_sft" / "errors"
    save(folder / "errors.jsonl", [{"id": "3-2", "status": "scored", "error": ERROR}])
    every, _ = read.everything(work, EMBEDDED)
    (found,) = read.matching(every, "predictions", [], "any", ERROR, "")
    assert (found.id, found.system) == ("3-2", "vanilla_sft")


def test_a_turns_page_has_all_systems_and_the_texts_as_text(work):
    page = read.page_of(read.everything(work, EMBEDDED)[0], "3-2")
    assert "reply 3 2" in page and "gold 3 2" in page and page.count("<section") == 3
    assert "<script" not in page and "<img" not in page and r"\u202e\x1b" in page
    assert "Nothing of turn x-9" in read.page_of([], "x-9")


def test_pairs_of_conversations_are_read_better_first_with_what_was_felt_after(tmp_path):
    folder = tmp_path / "runs" / EMBEDDED / "mining" / "converse"
    told = {"a": 3, "b": 2}
    replies = [{"text": one, "intensity": n, "truncated": False} for one, n in told.items()]
    turn = {"id": "7-0", "strategy": "Question", "history": [], "seeker": "hm", "replies": replies}
    same = turn | {"id": "7-1", "replies": [replies[0], replies[0] | {"text": "c"}]}
    save(folder / converse.RECORDS, [{"turns": [turn, same]}])
    every, wrong = read.everything(tmp_path, EMBEDDED)
    (found,) = read.matching(every, read.OF_AHEAD, [], "any", "", "")
    assert not wrong and [one["reply"] for one in found.replies] == ["b", "a"]
    assert found.replies[0]["notes"] == ["felt then: 2"]


def test_a_file_of_another_form_is_left_out_and_named_and_the_others_are_read(work):
    root = work / "runs" / EMBEDDED
    (root / "vanilla_sft" / "predictions.jsonl").write_text('{"id": "1", "text": "x"}\n')
    save(root / "mining" / "rg" / "routed" / "pairs.jsonl", [{"id": "1-0"}])
    every, wrong = read.everything(work, EMBEDDED)
    assert len(every) == 40 and len(wrong) == 2
    assert "neither a prediction" in wrong[0] and "pairs.jsonl is not in the form" in wrong[1]


def test_a_transcript_is_saved_only_when_asked_and_a_full_disk_is_one_message(work, monkeypatch):
    turns = [{"said": "a", "reply": "b", "strategy": "", "raw": "", "distribution": {}, "mark": ""}]
    path = talk.save(work, EMBEDDED, turns)
    assert files.read_json(path)["turns"] == turns

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(Exception, match="the disk is full"), compare.one_message():
        talk.save(work, EMBEDDED, turns)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--host", "0.0.0.0"), "set UI_PASSWORD"),
        (("--model", "nosuch"), "nosuch"),
        (("--variant", "ipo"), "VARIANT and ROUND name a DPO training"),
    ],
)
def test_a_mistake_is_one_line(given, told, capsys, monkeypatch):
    monkeypatch.delenv("UI_PASSWORD", raising=False)
    assert cli.run(app.main, ["--port", "0", *given]) == 2
    assert told in capsys.readouterr().err


def test_a_port_in_use_is_one_line(free_port, capsys):
    import socket

    with socket.create_server(("127.0.0.1", free_port)):
        assert cli.run(app.main, ["--port", str(free_port)]) == 2
    assert f"PORT={free_port}: address already in use; PORT=0" in capsys.readouterr().err


class Page:
    """The page's own process."""

    def __init__(self, work):
        command = [sys.executable, "-m", "eval", "ui", "--work", str(work), "--port", "0"]
        # Its output is read line by line.
        made = {"stdout": subprocess.PIPE, "text": True, "cwd": paths.ROOT}
        self.process = subprocess.Popen(command, **made)
        lines = iter(self.process.stdout.readline, "")
        self.url = next(line.split()[1] for line in lines if line.startswith("page"))

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; the tests that need it are skipped, visibly, where it is not there."""
    if not CHROMIUM:
        pytest.skip("chromium is not installed: apt-get install --no-install-recommends chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """From a work folder to its page in the browser, and the process behind it."""
    made, outside = [], []

    def call(work, path="", **size):
        process = Page(work)
        page = browser.new_page(viewport={"width": 1280, "height": 1000} | size)
        page.set_default_timeout(60_000)
        page.on("request", lambda one: outside.append(one.url))
        page.goto(process.url + path)
        page.wait_for_selector("#talk-words")
        made.append((process, page))
        return page, process

    yield call
    for process, page in made:
        assert page.evaluate("window.hit") is None
        page.close()
        process.process.kill()
        process.process.wait()
    assert all(re.match(r"(http://127\.0\.0\.1|data:|blob:)", one) for one in outside)


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def field(page, where):
    return page.locator(f"{where} input, {where} textarea").first


def choose(page, where, text):
    page.locator(f"{where} input").first.click()
    page.get_by_role("option", name=text, exact=True).first.click()


def until(page, where, text):
    try:
        page.wait_for_function(
            "([where, text]) => document.querySelector(where).innerText.includes(text)",
            arg=[where, text],
        )
    except Exception as error:
        raise AssertionError(f"{text!r} not in {page.locator(where).inner_text()!r}") from error


def shot(page, name):
    """A picture to look at, where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / name, full_page=True)


@pytest.fixture(scope="module")
def live(sample_work, tmp_path_factory):
    """A page without a model, by HTTP alone."""
    work = tmp_path_factory.mktemp("live")
    shutil.copytree(sample_work / "data", work / "data")
    made = Page(work)
    yield made.url
    made.kill()


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("", None, 200),
        ("", "evil.com", 403),
        ("gradio_api/upload", None, 403),
        ("gradio_api/file=/etc/passwd", None, 403),
    ],
)
def test_another_name_of_this_machine_uploads_and_files_are_refused(live, path, host, status):
    headers = {"Host": host} if host else {}
    answer = httpx2.request("GET", live + path, headers=headers, trust_env=False)
    assert answer.status_code == status
    assert status == 403 or "default-src 'self'" in answer.headers["content-security-policy"]
    assert b"cdnjs" not in answer.content


def test_with_a_password_nothing_is_told_without_it(sample_work, tmp_path, monkeypatch):
    shutil.copytree(sample_work / "data", tmp_path / "data")
    monkeypatch.setenv("UI_PASSWORD", "swordfish")
    page = Page(tmp_path)
    try:
        assert httpx2.get(f"{page.url}config", trust_env=False).status_code == 401
    finally:
        page.kill()


@pytest.mark.slow
def test_one_votes_with_the_keyboard_goes_on_after_a_kill_and_reads_the_votes(work, opened, run):
    page, process = opened(work)
    tab(page, "Compare")
    field(page, "#vote-name").fill("anna")
    choose(page, "#vote-one", "decoupled_sft")
    choose(page, "#vote-other", "vanilla_sft")
    page.locator("#vote-make").click()
    until(page, "#vote-status", "Turn 1 of 20, 0 answered")
    until(page, "#vote-turn", SHOWN)
    page.locator("#vote-turn").click()

    def answer(keys):
        for count, key in enumerate(keys, start=1):
            page.keyboard.press(key)
            name = compare.ASKED[count - 1]
            until(page, "#vote-status", f"{name} {({'1': 'A', '2': 'B', '3': 'tie'})[key]}")

    for turn in range(1, 4):
        until(page, "#vote-status", f"Turn {turn} of 20")
        answer("12311")
        page.keyboard.press("ArrowRight")
    until(page, "#vote-status", "Turn 4 of 20, 3 answered")
    page.keyboard.press("1")
    until(page, "#vote-status", "fluency A")
    page.keyboard.press("Backspace")
    until(page, "#vote-status", "Fluency:")
    shot(page, "compare_1280.png")
    process.kill()
    assert page.evaluate("window.hit") is None
    page.goto("about:blank")
    page, _ = opened(work)
    tab(page, "Compare")
    field(page, "#vote-name").fill("anna")
    choose(page, "#vote-sheet", "human_decoupled_sft_vanilla_sft")
    until(page, "#vote-status", "Turn 4 of 20, 3 answered")
    page.locator("#vote-turn").click()
    for turn in (4, 5):
        until(page, "#vote-status", f"Turn {turn} of 20")
        answer("22222")
        page.keyboard.press("ArrowRight")
    page.locator("#vote-names").click()
    until(page, "body", "the names are shown at the end: 15 turns")
    folder = work / "runs" / EMBEDDED / "human_decoupled_sft_vanilla_sft"
    votes = str(folder / "votes_anna.csv")
    assert run("-m", "eval", "human", "--out", str(folder), "--read", votes).returncode == 0
    assert files.read_json(folder / "human.json")["annotators"]["anna"]["votes"] == 25


@pytest.mark.slow
def test_one_checks_three_pairs_and_reads_a_shared_turn(work, opened):
    audit_sheet(work)
    page, _ = opened(work)
    tab(page, "Check pairs")
    page.locator("#check-open").click()
    until(page, "#check-turn", SHOWN)
    assert ERROR not in page.locator("#check-turn").inner_text()
    page.get_by_label(ERROR, exact=True).check()
    page.locator("#check-answer").click()
    until(page, "#check-turn", f"the judge: {ERROR}")
    for number, button in ((2, "#check-answer"), (3, "#check-unsure")):
        page.locator("#check-next").click()
        until(page, "#check-turn", f"{number} of 3")
        if number == 2:
            page.get_by_label(check.NOTHING, exact=True).check()
        page.locator(button).click()
        until(page, "#check-turn", "the judge:")
    until(page, "#check-status", "precision 50%")
    tab(page, "Read")
    until(page, "#read-list", "40 found")
    choose(page, "#read-systems", "vanilla_sft")
    field(page, "#read-text").fill("low, 3 2")
    field(page, "#read-text").press("Enter")
    until(page, "#read-list", "1 found")
    with page.context.expect_page() as shared:
        page.locator("#read-list a").click()
    page = shared.value
    page.wait_for_selector("#read-turn section")
    assert page.url.endswith("?turn=3-2")
    until(page, "#read-turn", SHOWN)
    until(page, "#read-turn", "gold 3 2")


@pytest.mark.slow
def test_one_talks_overrides_a_strategy_and_goes_on_after_the_server_died(
    sample_work, tmp_path, opened, run
):
    work = tmp_path / "talk"
    shutil.copytree(sample_work / "data", work / "data")

    def serving(step, *options):
        assert run("-m", "serving", step, "--work", str(work), *options).returncode == 0

    serving("start", "--port", "0")
    try:
        page, _ = opened(work)
        assert "No adapters yet" in page.inner_text("body")
        assert "no counsellor" in page.inner_text("body")

        def say(words, replies):
            field(page, "#talk-words").fill(words)
            page.locator("#talk-send").click()
            page.wait_for_function(
                "n => document.querySelectorAll('#talk-log .us').length == n"
                " && document.querySelectorAll('#talk-log .they').length == n",
                arg=replies,
            )

        say("I lost my job <b>today</b>", 1)
        until(page, "#talk-log", "<b>today</b>")
        until(page, "#talk-bars", "✓")
        say("And I do not know how to tell my wife", 2)
        choose(page, "#talk-strategy", "Providing Suggestions")
        page.locator("#talk-anew").click()
        until(page, "#talk-log", "your choice")
        assert "Providing Suggestions" in page.locator("#talk-log .us").last.inner_text()
        shot(page, "talk_1280.png")
        page.set_viewport_size({"width": 390, "height": 844})
        shot(page, "talk_390.png")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert not (work / "runs" / EMBEDDED / "transcripts").exists()
        page.locator("#talk-save").click()
        until(page, "#talk-status", "Saved:")
        serving("stop")
        field(page, "#talk-words").fill("are you there")
        page.locator("#talk-send").click()
        until(page, "#talk-status", "No answer: the server has ended; make serve")
        serving("start", "--port", "0")
        say("are you there", 3)
    finally:
        serving("stop")
    begin = time.monotonic()
    while policy_server.on_this_machine() and time.monotonic() - begin < 20:
        time.sleep(0.2)
