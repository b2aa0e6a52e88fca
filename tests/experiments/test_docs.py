"""Every command of the docs is one that the code takes, and the short ones are run."""

import re
import sys
from pathlib import Path

import documented
import pytest
from documented import Command, Given, command_of, problems

from esc import paths

PAGES = sorted(
    name
    for name in documented.TRACKED
    if name in ("README.md", "llamafactory_configs/README.md")
    or (name.startswith("docs/") and name.endswith(".md"))
)
TEXTS = {name: (paths.ROOT / name).read_text() for name in PAGES}
READ = {name: list(documented.read(text)) for name, text in TEXTS.items()}


def commands(page):
    return [one for one in READ[page] if isinstance(one, Command)]


SESSIONS = [page for page in PAGES if any(one.runs for one in commands(page))]


def test_there_are_pages_and_they_are_full_of_commands():
    assert {"README.md", "llamafactory_configs/README.md", "docs/faq.md"} <= set(PAGES)
    assert all(commands(page) for page in PAGES)
    with_runs = ("README.md", "docs/data.md", "docs/evaluation.md", "docs/own_corpus.md")
    assert set(with_runs) <= set(SESSIONS)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_code_takes(page):
    wrong = {str(one): found for one in commands(page) if (found := list(problems(one)))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_a_command_that_is_not_run_here_says_what_it_takes(page):
    silent = [
        str(one)
        for one in commands(page)
        if not (one.inline or one.is_marked or one.is_given or one.runs)
    ]
    assert not silent, f"mark each with one of {', '.join(sorted(documented.MARKS))}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_page_that_is_named_exists(page):
    text = TEXTS[page]
    unfenced = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    missing = [
        found for span in documented.code_spans(unfenced) for found in documented.missing_file(span)
    ]
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", unfenced)
    folder = (paths.ROOT / page).parent
    missing += [link for link in links if "://" not in link and not (folder / link).exists()]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS)
def test_the_short_commands_of_a_page_run_one_after_the_other(page, run, tmp_path):
    folder = tmp_path / documented.SCRATCH
    folder.mkdir()
    for one in READ[page]:
        if isinstance(one, Given):
            if one.name.startswith(f"{documented.SCRATCH}/"):
                (tmp_path / one.name).write_text(one.text)
        elif one.runs:
            words = one.in_scratch(folder)
            words[0] = words[0] if words[0] == "make" else sys.executable
            shown = run(*words, **one.environment)
            assert shown.returncode == 0, f"{one}\n{shown.stdout[-1000:]}{shown.stderr[-2000:]}"


def quoted():
    page = TEXTS["docs/faq.md"]
    return [line[2:] for line in page.splitlines() if line.startswith("> ")]


def test_every_error_that_the_page_of_errors_quotes_is_one_of_the_code():
    assert len(quoted()) > 30
    assert not [message for message in quoted() if not documented.is_said(message)]


@pytest.mark.parametrize(
    "said",
    [
        "killed, most likely for want of memory",
        "the server has ended; see",
        "machines came to",
        "is in use on node 0",
        "the disk is full; free some space:",
        "no whole request; delete",
        "does not ask: it is of another run",
        "answers; what is there is kept",
        "was not run:",
        "the engine died on the way",
    ],
)
def test_the_page_of_errors_has_what_plan_machines_and_batches_end_with(said):
    assert len([message for message in quoted() if said in message]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "make nosuch",
        "make nosuch-*",
        "make data NOSUCH=1",
        "make sft-sp TRAIN_ARGS='nosuch=1'",
        "NOSUCH=1 make data",
        "python -m nosuch build",
        "python -m eval nosuch",
        "python -m eval.nosuch",
        "python -m eval metrics --predictions f --out g --nosuch",
        "python -m eval metrics --out g",
        "python -m mining route --task nosuch",
        "python -m training train --task sp --processes many",
        "llamafactory-cli train llamafactory_configs/qwen2.5-7b/nosuch.yaml",
        "llamafactory-cli train llamafactory_configs/qwen2.5-7b/sp_sft.yaml nosuch=1",
        "python -m data_builders build --esconv data_builders/sample/nosuch.json",
    ],
)
def test_the_check_finds_what_is_wrong(line):
    command = command_of(line)
    assert command is not None and list(problems(command))


@pytest.mark.parametrize(
    "line",
    [
        "make data ESCONV=path/to/ESConv.json JUDGE_N=3",
        "make sft-sp sft-rg TRAIN_ARGS='learning_rate=2.0e-5 num_train_epochs=1.0'",
        "JUDGE_N=3 .venv/bin/python -m eval metrics --predictions f --out g",
        "make dpo-*",
        "python -m experiments.doctor",
        "llamafactory-cli train llamafactory_configs/qwen2.5-7b/sp_sft.yaml learning_rate=2.0e-5",
    ],
)
def test_the_check_takes_what_is_right(line):
    command = command_of(line)
    assert command is not None and not list(problems(command))


def test_a_phrase_may_leave_out_what_a_command_needs_but_not_invent():
    phrase = command_of("python -m eval metrics --predictions FILE", inline=True)
    invented = command_of("python -m eval metrics --nosuch FILE", inline=True)
    assert not list(problems(phrase)) and list(problems(invented))


def test_commands_are_found_in_fences_indented_and_inline_but_not_in_output():
    page = """
Run `make a` or `make b
X=1`, not `data/`.

```sh
make c # minutes
python -m d \\
  e
```

```text
make output
```

```json try/f.json
{}
```

    make g
"""
    found = list(documented.read(page))
    assert [str(one) for one in found if isinstance(one, Command)] == [
        *("make a", "make b X=1", "make c", "python -m d e", "make g")
    ]
    assert found[4] == Given("try/f.json", "{}\n") and found[2].is_marked


def test_only_unmarked_commands_that_write_elsewhere_or_nothing_are_run():
    def runs(line):
        return command_of(line).runs

    assert runs("make data WORK=try") and runs("python -m eval metrics --out try/gold")
    assert runs("make help") and runs("python -m eval metrics --help")
    assert runs("make reproduce DRY_RUN=1") and runs("python -m training memory --processes 8")
    assert not runs("make mine-sp DRY_RUN=1 # server") and not runs("make reproduce")
    assert not runs("make data WORK=try # minutes") and not runs("make data")
    assert not runs("make data WORK=try ESCONV=path/to/x") and not runs("make data WORK=trying")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("README.md", "make reproduce MODEL=qwen2.5-7b DRY_RUN=1"),
        ("docs/scaling.md", "make reproduce MODEL=qwen2.5-7b DRY_RUN=1"),
        ("docs/recipes.md", ".venv/bin/python -m training memory"),
    ],
)
def test_the_commands_that_tell_what_a_training_takes_are_run(page, words):
    assert [one for one in commands(page) if str(one).startswith(words) and one.runs]


def test_a_dry_run_is_of_the_scratch_folder():
    def words(line):
        return command_of(line).in_scratch(Path("/tmp/x"))

    assert words("make reproduce DRY_RUN=1") == ["make", "reproduce", "DRY_RUN=1", "WORK=/tmp/x"]
    assert words("make data DRY_RUN=1 WORK=try")[2:] == ["DRY_RUN=1", "WORK=/tmp/x"]


def test_a_message_that_the_code_no_longer_has_is_found():
    assert documented.is_said("unknown MODEL …; known: …")
    assert not documented.is_said("unknown MODEL …; unheard of: …")
    assert not documented.is_said("…")
