"""Every command of the docs is one that the code takes, and the short ones are run."""

import ast
import contextlib
import fnmatch
import importlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from functools import cache

import pytest

from esc import cli, paths

SCRATCH = "try"
"""The folder that the docs' runnable commands work in."""
MARKS = frozenset({"GPU", "network", "key", "minutes", "hour", "server", "terminal"})
"""Words of a command's comment that say what it takes, so that it is not run here."""
GIVEN = re.compile(r"path/to|LLaMA-Factory/|\b(PATH|FILE|FOLDER)\b|sheet\.csv|votes_|[<…]")
"""What stands for something of the reader's."""
PROGRAMS = ("make", "python", ".venv/bin/python", "llamafactory-cli")
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
).stdout.split()
OTHERS = ("README.md", "llamafactory_configs/README.md", "CONTRIBUTING.md")
PAGES = [n for n in TRACKED if n in OTHERS or fnmatch.fnmatch(n, "docs/*.md")]
TEXTS = {name: (paths.ROOT / name).read_text() for name in PAGES}
SOURCES = [n for n in TRACKED if n.endswith(".py") and not n.startswith("tests/")]
CODE = [(paths.ROOT / name).read_text() for name in SOURCES]
MAKE = (paths.ROOT / "Makefile").read_text() + (paths.ROOT / "plans.mk").read_text()


def commands(page):
    """(words, comment, whether in running text) of every command of a page, in order."""
    for fenced, name, block, inline in re.findall(
        r"^```(\w*) ?(\S*)\n(.*?)^```$|(?<!`)`([^`]+)`(?!`)", TEXTS[page], re.M | re.S
    ):
        lines = [" ".join(inline.split())] if inline else []
        if not inline and not name and fenced in ("", "sh", "bash"):
            lines = block.replace("\\\n", " ").splitlines()
        for line in lines:
            text, _, comment = line.partition(" #")
            with contextlib.suppress(ValueError):
                words = shlex.split(text)
                program = [word for word in words if not re.match(r"[A-Z][A-Z0-9_]*=", word)][:1]
                if program and program[0] in PROGRAMS and len(words) > 1:
                    yield words, comment, bool(inline)


def says_what_it_takes(words, comment, inline):
    return inline or MARKS & set(re.findall(r"\w+", comment)) or any(map(GIVEN.search, words))


def runs(words, comment, inline):
    """Whether it is run here: it writes in the scratch folder, or nothing."""
    reads = words[1:] in (["help"], ["doctor"]) or words[1:4] == ["-m", "training", "memory"]
    in_scratch = any(re.search(rf"(^|=){SCRATCH}(/|$)", word) for word in words)
    harmless = reads or in_scratch or {"--help", "DRY_RUN=1"} & set(words)
    return bool(harmless and not says_what_it_takes(words, comment, inline))


@cache
def variables():
    """Names that make hands on, or that a module takes from the environment."""
    (handed_on,) = re.findall(r"^VARIABLES := ((?:.*\\\n)*.*)$", MAKE, re.M)
    found = set(re.findall(r"\w+", handed_on)) | set(re.findall(r"^([A-Z_]+) \?=", MAKE, re.M))
    for text in CODE:
        if "environ" in text or "envvar" in text:
            found |= set(re.findall(r'"([A-Z][A-Z0-9_]{2,})"', text))
    return found | {"NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}


@cache
def settings():
    """The names of LLaMA-Factory's arguments."""
    from llamafactory import hparams

    classes = ("Model", "Data", "Training", "Finetuning", "Generating")
    return {f.name for one in classes for f in fields(getattr(hparams, f"{one}Arguments"))}


@cache
def help_of(package, step):
    """What ``--help`` of a step says; empty where there is no such step."""
    steps = importlib.import_module(f"{package}.__main__").STEPS
    shown = io.StringIO()
    if step in steps:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            cli.step_of(package, steps, step)(["--help"])
    return shown.getvalue()


def problems(words):
    """What is wrong with a command: targets, variables, steps, options, settings, files."""
    words, given, set_to = list(words), [], []
    while match := re.match(r"([A-Z][A-Z0-9_]*)=", words[0]):
        given.append(match[1])
        words.pop(0)
    for word in words:
        name = word.rpartition("=")[2].rstrip("/")
        known = any(one == name or one.startswith(f"{name}/") for one in TRACKED)
        ours = "/" in name and any(one.startswith(f"{name.partition('/')[0]}/") for one in TRACKED)
        if ours and not known and not re.search(r"[<>*$…{}\[ |]", name):
            yield f"no file {name}"
    if words[0] == "make":
        targets = " ".join(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", MAKE, re.M)).split()
        for name, equals, value in (word.partition("=") for word in words[1:]):
            given += [name] * bool(equals)
            set_to += value.split() if name == "TRAIN_ARGS" else []
            if not equals and name != "…" and not fnmatch.filter(targets, name):
                yield f"no target {name}"
    elif words[0] == "llamafactory-cli":
        set_to = [word for word in words[1:] if "=" in word]
    elif words[1] == "-m" and "." not in words[2] and words[2] != "venv":
        if len(words) > 3 and (shown := help_of(words[2], words[3])):
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            yield from (f"no option {one}" for one in options if f"{one} " not in shown)
        elif words[3:] not in ([], ["--help"], ["STEP"]):
            yield f"no step {words[2:4]}"
    yield from (f"nothing reads {name}" for name in given if name not in variables())
    for word in set_to:
        if "…" not in word and word.partition("=")[0] not in settings():
            yield f"LLaMA-Factory has no setting {word}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_code_takes_and_says_what_it_takes(page):
    wrong = {" ".join(w): found for w, *_ in commands(page) if (found := list(problems(w)))}
    assert not wrong
    silent = [one[0] for one in commands(page) if not (says_what_it_takes(*one) or runs(*one))]
    assert not silent, f"mark each with one of {', '.join(sorted(MARKS))}"
    unfenced = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", unfenced)
    folder = (paths.ROOT / page).parent
    assert not [link for link in links if "://" not in link and not (folder / link).exists()]


def test_the_check_finds_what_is_wrong_and_the_pages_are_full_of_commands():
    for line in (
        *("make nosuch", "make data NOSUCH=1", "NOSUCH=1 make data", "python -m eval nosuch"),
        *("make sft-sp TRAIN_ARGS='nosuch=1'", "python -m eval metrics --out g --nosuch"),
        "llamafactory-cli train llamafactory_configs/qwen2.5-7b/nosuch.yaml",
        "llamafactory-cli train llamafactory_configs/qwen2.5-7b/sp_sft.yaml nosuch=1",
    ):
        assert list(problems(shlex.split(line))), line
    assert sum(1 for page in PAGES for _ in commands(page)) > 100


def test_every_error_that_the_page_of_errors_quotes_is_one_of_the_code():
    said = []
    for node in (node for text in CODE for node in ast.walk(ast.parse(text))):
        values = getattr(node, "values", [node]) if isinstance(node, ast.JoinedStr) else [node]
        parts = [p.value if isinstance(p, ast.Constant) else "…" for p in values]
        said.append(" ".join("".join(map(str, parts)).split()))
    quoted = [line[2:] for line in TEXTS["docs/faq.md"].splitlines() if line.startswith("> ")]
    assert len(quoted) > 20
    unsaid = []
    for message in quoted:
        words = [part.strip() for part in message.split("…") if part.strip(" ;,.:")]
        pattern = re.compile(".*".join(map(re.escape, words)))
        unsaid += [] if any(map(pattern.search, said)) else [message]
    assert not unsaid


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(runs(*one) for one in commands(p))])
def test_the_short_commands_of_a_page_run_one_after_the_other(page, run, tmp_path):
    folder = tmp_path / SCRATCH
    folder.mkdir()
    for name, text in re.findall(r"^```\w+ (try/\S+)\n(.*?)^```$", TEXTS[page], re.M | re.S):
        (tmp_path / name).write_text(text)
    for one in (one for one in commands(page) if runs(*one)):
        words = [re.sub(rf"(^|=){SCRATCH}(?=/|$)", rf"\g<1>{folder}", word) for word in one[0]]
        # A user's own data would make another plan of it.
        words += [f"WORK={folder}"] if "DRY_RUN=1" in words and "WORK=" not in str(words) else []
        given = {}
        while "=" in words[0]:
            name, _, given[name] = words.pop(0).partition("=")
        words[0] = "make" if words[0] == "make" else sys.executable
        shown = run(*words, **given)
        assert shown.returncode == 0, f"{words}\n{shown.stdout[-1000:]}{shown.stderr[-2000:]}"
