"""A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?

    python -m mining judge --task rg --limit 2 --judge random
    python -m mining judge --model qwen2.5-7b --task rg --price 0.40/1.60 --dry-run

Reads ``samples.jsonl``, writes ``judges/<judge>/`` beside it: ``calls.jsonl``, every answer as it
comes, ``verdicts.jsonl`` and ``run.json``. What is dropped without a verdict (equal to gold, seen
before, unparsable) is not asked about. Any OpenAI-compatible endpoint judges: the hosted one of the
paper with OPENAI_API_KEY, or JUDGE_BASE_URL. An answer that is no verdict is *unscored*, kept with
its reason. The planner's samples need no judge. ``agreement`` compares two judges' verdicts.
"""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from esc import cli, files, prompts, step
from esc.dialogue import Exchange, GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import (
    Asking,
    Judge,
    JudgeName,
    JudgeSending,
    Reason,
    Unscored,
    Verdict,
    ask_all,
    is_smoke,
    judge_for,
    lost,
    read,
)
from esc.llm import Asks, Constraint, Failure, Generation, Sampling
from esc.paths import EMBEDDED
from esc.prompts import Message, mark
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Candidate, Key, read_turns
from esc.stats import agreement, said
from esc.step import OPTIONS, RunFolder
from mining.routing import STAGE_OF, Judgement, to_judge
from mining.sample import Mining, Wanted, finished_samples
from mining.verdicts import FILTER_MENU, BlindVerdict, ErrorVerdict, FilterVerdict

TEMPLATES = Path(__file__).parent / "prompts"
PROMPTS = {
    FilterVerdict: ("filter_system.j2", "filter_user.j2"),
    BlindVerdict: ("blind_system.j2", "blind_user.j2"),
    ErrorVerdict: ("classify_system.j2", "classify_user.j2"),
}
"""Kind of verdict to the files of its system and user message."""
ANSWER_TOKENS = 512
NOTHING = "(nothing yet)"
DRAWN = "JUDGE=random: drawn, not judged"
FORMAT = 1
VERDICTS = "verdicts.jsonl"


def draw_filter(record: str) -> FilterVerdict:
    """A verdict on a pair, drawn by the record's id; about two in three keep it."""
    rng = _rng("filter", record)
    errors = [error for error in FILTER_MENU if STAGE_OF[error] == "rg"]
    keep, chosen, rejected = rng.choice(
        [
            (True, PsychError.NONE, rng.choice(errors)),
            (True, PsychError.NONE, rng.choice(errors)),
            (False, rng.choice(errors), PsychError.NONE),
            (False, PsychError.NONE, PsychError.NONE),
        ]
    )
    return FilterVerdict(
        retain=keep,
        chosen_error=chosen,
        chosen_explanation=DRAWN,
        rejected_error=rejected,
        rejected_explanation=DRAWN,
    )


def draw_error(record: str) -> ErrorVerdict:
    """A verdict on a reply, drawn by the record's id."""
    error = _rng("error", record).choice(list(PsychError))
    return ErrorVerdict(contains_error=error is not PsychError.NONE, error=error, explanation=DRAWN)


def _rng(what: str, record: str) -> random.Random:
    digest = hashlib.sha256(f"{what}\n{record}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))


def verdict_request(
    record: str, model: str, kind: type[Verdict], chat: tuple[Message, ...]
) -> Generation:
    """The request for one verdict, greedy, under the verdict's schema.

    The schema is a hint: whatever comes back is read as strictly as an answer without one.
    """
    constraint = Constraint(schema=kind.schema_text(), hint=True)
    sampling = Sampling(ANSWER_TOKENS)
    return Generation(record, "judge", model, chat, sampling, constraint, expected="{}")


def question(
    kind: type[Verdict], history: Sequence[Exchange], **quoted: str
) -> tuple[Message, ...]:
    """The chat that asks for a verdict on the texts ``quoted`` after a conversation.

    Every text in it stands between lines that it cannot forge.
    """
    system, user = PROMPTS[kind]
    menu = tuple(PsychError) if kind is ErrorVerdict else FILTER_MENU
    conversation = prompts.exchanges(history).strip() or NOTHING
    named = [error for error in menu if error is not PsychError.NONE]
    offered = " or ".join(f'"{error}"' for error in menu)
    fence = mark(conversation, *quoted.values())
    asked = prompts.render(TEMPLATES, user, conversation=conversation, mark=fence, **quoted)
    instructions = prompts.render(TEMPLATES, system, errors=named, menu=offered)
    return Message("system", instructions), Message("user", asked)


def files_of(kind: type[Verdict]) -> list[Path]:
    """The prompt files behind a kind of question."""
    return [prompts.source(TEMPLATES, name) for name in PROMPTS[kind]]


def chosen_side(record: str) -> Literal["A", "B"]:
    """Where the gold reply stands in a blind question: shuffled by the record's id."""
    return "A" if hashlib.sha256(f"side\n{record}".encode()).digest()[0] % 2 else "B"


Question = tuple[GoldTurn, Candidate]
Blind = Annotated[
    bool,
    typer.Option("--blind", envvar="BLIND", help="no word on which is gold; sides are shuffled"),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the judge."""

    mining: Mining
    judge: Judge
    blind: bool

    @property
    def slug(self) -> str:
        """The name of the folder of its verdicts."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.judge.name).strip(".-") or "judge"
        return name + ("_blind" if self.blind else "")

    @property
    def folder(self) -> Path:
        """Of its verdicts."""
        return self.mining.judged(self.slug)

    def again(self, **variables: object) -> str:
        """The make command that goes on with this judging as it was begun."""
        blind = 1 if self.blind else None
        return self.mining.again(JUDGE=self.judge.name, BLIND=blind, **variables)


async def one_verdict(asks: Asks, about: Question, *, asked: Asked) -> Row:
    """The row of one verdict; CallFailed where its request has no answer."""
    turn, candidate = about
    if asked.judge.is_random:
        return _row(asked, candidate, draw_filter(f"{candidate.id}/{candidate.sample}"))
    gold, sampled = turn.response, str(candidate.response)
    kind: type[Verdict] = BlindVerdict if asked.blind else FilterVerdict
    # By the turn, not the sample: two equal samples are one question.
    side = chosen_side(f"{turn.id}\n{sampled}")
    names = ("reply_a", "reply_b") if asked.blind else ("chosen", "rejected")
    replies = (sampled, gold) if asked.blind and side == "B" else (gold, sampled)
    quoted = dict(zip(names, replies, strict=True))
    chat = question(kind, turn.history, seeker=turn.seeker, **quoted)
    answer = await asks.ask(verdict_request(turn.id, asked.judge.name, kind, chat))
    found = read(kind, answer.text, truncated=answer.truncated)
    if isinstance(found, BlindVerdict):
        found = found.unblinded(side)
    assert isinstance(found, FilterVerdict | Unscored)
    return _row(asked, candidate, found)


def _row(asked: Asked, candidate: Candidate, said: FilterVerdict | Unscored | Failure) -> Row:
    row = {"id": candidate.id, "sample": candidate.sample, "judge": asked.slug}
    if isinstance(said, FilterVerdict):
        return row | {"status": "scored"} | said.model_dump(mode="json")
    told = lost(said) if isinstance(said, Failure) else ("unscored", said.reason.value, said.detail)
    return row | dict(zip(("status", "reason", "detail"), told, strict=True))


def asking(asked: Asked) -> Asking[Question]:
    """The judging of one mining; EscError where it is not sampled, or by other options."""
    mining = asked.mining
    drawn_with, samples = finished_samples(mining)
    kind = BlindVerdict if asked.blind else FilterVerdict
    # Everything that decides the verdicts, under the names a user knows.
    options = {
        "format": FORMAT,
        "MODEL": mining.model,
        "task": mining.task,
        "JUDGE": asked.judge.name,
        "BLIND": asked.blind,
        "samples": samples,
        "prompts": files.sha256_of([] if asked.judge.is_random else files_of(kind)),
        "smoke": step.is_smoke(mining.model, mining.work) or is_smoke(asked.judge.name),
    }

    def questions() -> list[Question]:
        turns = {turn.id: turn for turn in gold_turns(mining.work, "train", drawn_with["LIMIT"])}
        sampled = read_turns(mining.folder / SAMPLES)
        return [(turns[one.id], one) for turn in sampled for one in to_judge(mining.task, turn)]

    return Asking(
        folder=RunFolder(asked.folder, options, VERDICTS),
        what=f"judging {mining.task}",
        run={"judge": asked.slug, "task": mining.task, "model": mining.model},
        records=questions,
        work=partial(one_verdict, asked=asked),
        without=lambda about, failure: _row(asked, about[1], failure),
        told=lambda rows: _told(rows) | {"smoke": options["smoke"]},
        report=partial(_report, asked),
        models=[asked.judge.name],
        at=asked.judge.urls,
        judge=asked.judge.urls or asked.judge.name,
    )


def _told(rows: Sequence[Row]) -> Row:
    count = Counter(row["status"] for row in rows)
    reasons, failures = (
        Counter(row["reason"] for row in rows if row["status"] == status)
        for status in ("unscored", "failed")
    )
    return {
        "asked": len(rows),
        "scored": count["scored"],
        "unscored": count["unscored"],
        "failed": count["failed"],
        "reasons": dict(reasons.most_common()),
        "failures": dict(failures.most_common()),
        "kept": sum(row.get("retain", False) for row in rows),
    }


def _report(asked: Asked, facts: Row) -> str:
    reasons, failures = (
        ", ".join(f"{count} {what}" for what, count in facts[name].items())
        for name in ("reasons", "failures")
    )
    lines = [
        f"verdicts    {asked.folder / VERDICTS}: {facts['asked']:,} asked = {facts['scored']:,} "
        f"scored + {facts['unscored']:,} unscored + {facts['failed']:,} failed",
        f"            {facts['kept']:,} retained by the judge",
    ]
    if reasons:
        lines.append(f"unscored    {reasons}")
    if facts["cost"] is not None:
        lines.append(f"cost        {facts['cost']:,.4f} by this call")
    if failures:
        lines.append(f"incomplete  {failures}; the same command asks again for what is missing")
    return "\n".join(lines)


def _replies_alone(tasks: Sequence[str]) -> None:
    if "sp" in tasks:
        raise EscError("the planner's errors are found by comparing names: TASK=rg or vanilla")


@cli.command(
    examples="  python -m mining judge --task rg --judge random\n"
    "  python -m mining judge --task rg vanilla --model qwen2.5-7b --price 0.40/1.60\n"
    "  python -m mining judge --task rg --judge my-model --judge-base-url http://127.0.0.1:8000/v1"
)
def main(
    wanted: Wanted,
    sending: JudgeSending,
    blind: Blind = False,
    judge2: Annotated[
        str | None, typer.Option(envvar="JUDGE2", help="a second judge, and how far both agree")
    ] = None,
    judge2_base_url: Annotated[str | None, typer.Option(envvar="JUDGE2_BASE_URL")] = None,
) -> int:
    """A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?"""
    minings, judges = wanted.minings(sending.model, sending.work), [sending.who()]
    if judge2:
        where = judge2_base_url or sending.judge_base_url
        judges.append(replace(sending, judge=judge2, judge_base_url=where).who())
    _replies_alone(wanted.task)
    if sending.dry_run:
        unknown = [mining for mining in minings if not (mining.folder / SAMPLES).is_file()]
        for mining in unknown:
            print(f"{mining.task}: not sampled yet; what is asked is known once it is")
        minings = [mining for mining in minings if mining not in unknown]
    code = max(
        ask_all([asking(Asked(mining, judge, blind)) for mining in minings], sending)
        for judge in judges
    )
    if judge2 and not (code or sending.dry_run):
        for mining in minings:
            both = (Asked(mining, judge, blind) for judge in judges)
            print(_agreement_report(mining, agree(*both)))
    return code


def finished_verdicts(asked: Asked, samples: str) -> Row:
    """The options of the judge's verdicts on the samples of that SHA-256.

    Raises EscError where they are not there, not whole, or on other samples.
    """
    folder, again = asked.folder, asked.again()
    if not (folder / VERDICTS).is_file():
        others = sorted(path.parent.name for path in folder.parent.glob(f"*/{VERDICTS}"))
        have = f" (there are some by {', '.join(others)})" if others else ""
        raise EscError(f"{folder / VERDICTS} does not exist{have}; {again} asks the judge")
    if RunFolder(folder, {}, VERDICTS).finished() is None:
        raise EscError(
            f"{folder / VERDICTS} is not complete, or was changed since it was written; {again} "
            "asks for what is missing and writes it anew"
        )
    options = files.read_json(folder / OPTIONS)
    if options.get("samples") != samples:
        raise EscError(
            f"{folder / VERDICTS} are on other samples than are there now; {again} FORCE=1 judges "
            "these (stored answers are kept)"
        )
    return options


Judged = tuple[list[Candidate], dict[Key, Judgement]]


def judged_turns(mining: Mining, asked: Asked | None) -> Iterator[Judged]:
    """Every turn's candidates with the verdicts on them, turn by turn; none where nobody judged.

    Verdicts are in the order of the samples: EscError where they are on others.
    """
    rows = files.read_jsonl(asked.folder / VERDICTS) if asked else iter(())
    for turn in read_turns(mining.folder / SAMPLES):
        verdicts: dict[Key, Judgement] = {}
        for candidate in to_judge(mining.task, turn) if asked else ():
            row = next(rows, {})
            if asked and (row.get("id"), row.get("sample")) != candidate.key:
                raise EscError(
                    f"{asked.folder / VERDICTS} lacks a verdict on sample {candidate.sample} of "
                    f"turn {candidate.id}; {asked.again()} FORCE=1 writes it anew (stored answers "
                    "are kept)"
                )
            scored = row["status"] == "scored"
            verdicts[candidate.key] = (
                FilterVerdict.model_validate(row)
                if scored
                else Unscored(Reason(row["reason"]), row["detail"])
            )
        yield turn, verdicts


LABELS = {
    "retain": ("Yes", "No"),
    "rejected_error": tuple(error.value for error in FILTER_MENU),
}
"""What is compared, to the labels that can be given."""
SCORED = {"both": (True, True), "first only": (True, False), "second only": (False, True)}
"""Who of two judges has a verdict on a pair."""


def agree(first: Asked, second: Asked) -> Row:
    """What two judges' finished verdicts on one mining have in common, as it is written.

    Raises EscError where verdicts are not whole, or on other samples.
    """
    mining = first.mining
    options, samples = finished_samples(mining)
    smoke = [options, *(finished_verdicts(asked, samples) for asked in (first, second))]
    ones, others = (
        {key: verdict for _, said in judged_turns(mining, asked) for key, verdict in said.items()}
        for asked in (first, second)
    )
    scored: Counter[tuple[bool, bool]] = Counter()
    # What is compared, and the dialogue, to how often the two gave which labels.
    cells: dict[str, dict[str, Counter[tuple[str, str]]]] = {
        what: defaultdict(Counter) for what in LABELS
    }
    for (turn, sample), one in ones.items():
        labels = [_labels(verdict) for verdict in (one, others[turn, sample])]
        scored[bool(labels[0]), bool(labels[1])] += 1
        for what in LABELS if all(labels) else ():
            cells[what][turn.rpartition("-")[0]][labels[0][what], labels[1][what]] += 1
    pairs = {name: scored[both] for name, both in SCORED.items()}
    done: Row = {
        "task": mining.task,
        "model": mining.model,
        "judges": [first.slug, second.slug],
        "pairs": pairs | {"none": scored[False, False]},
        **{what: _measured(LABELS[what], [*cells[what].values()]) for what in LABELS},
        "samples": samples,
        "smoke": any(one["smoke"] for one in smoke),
    }
    path = path_of(mining, done)
    with files.exclusive(path.parent):
        files.write_json(path, done)
    return done


def _labels(verdict: Judgement) -> dict[str, str]:
    if not isinstance(verdict, FilterVerdict):
        return {}
    retain = "Yes" if verdict.retain else "No"
    return {"retain": retain, "rejected_error": verdict.rejected_error.value}


def _measured(labels: Sequence[str], by_dialogue: Sequence[Counter[tuple[str, str]]]) -> Row:
    cells = sum(by_dialogue, Counter[tuple[str, str]]())
    return agreement(by_dialogue) | {
        "interval": said("dialogue"),
        "dialogues": len(by_dialogue),
        "labels": list(labels),
        # Rows are the first judge's labels, columns the second's.
        "confusion": [[cells[one, other] for other in labels] for one in labels],
    }


def path_of(mining: Mining, done: Row) -> Path:
    """Of the result: beside the judges' folders, one file for two judges."""
    return mining.judged(f"agreement_{'_'.join(done['judges'])}.json")


def _agreement_report(mining: Mining, done: Row) -> str:
    """The numbers one should see."""
    from pandas import DataFrame

    (first, second), pairs = done["judges"], done["pairs"]
    lines = [
        f"agreement   {path_of(mining, done)}: {first} (rows) and {second} (columns)",
        f"pairs       {sum(pairs.values()):,}: {pairs['both']:,} scored by both, "
        f"{pairs['first only']:,} by {first} only, {pairs['second only']:,} by {second} only, "
        f"{pairs['none']:,} by none",
    ]
    for what in LABELS:
        one = done[what]
        value = "none" if one["kappa"] is None else f"{one['kappa']:.3f}"
        interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        why = f" ({one['note']})" if one["note"] else ""
        agreed = f"agreed on {one['agreed']:,} of {one['n']:,}"
        lines.append(f"kappa       {what.replace('_', ' ')}: {value}{interval}{why}; {agreed}")
        lines.append(DataFrame(one["confusion"], one["labels"], one["labels"]).to_string())
    if done["smoke"]:
        lines.append(step.SMOKE)
    return "\n".join(lines)


@cli.command(
    examples="  python -m mining agreement --task rg --judge gpt-4.1-mini-2025-04-14 --judge2 my\n"
    "  python -m mining agreement --model qwen2.5-7b --task rg --judge a --judge2 b --blind",
    name="agreement",
)
def agreement_main(
    wanted: Wanted,
    judge2: Annotated[str, typer.Option(envvar="JUDGE2", help="the other judge")],
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    judge: JudgeName = None,
    blind: Blind = False,
) -> None:
    """How far two judges' verdicts agree: Cohen's kappa with its interval, and the confusions."""
    _replies_alone(wanted.task)
    judges = [judge_for(model, name, None, keyless=True) for name in (judge, judge2)]
    for mining in wanted.minings(model, work):
        first, second = (Asked(mining, one, blind) for one in judges)
        if first.slug == second.slug:
            raise EscError(f"--judge and --judge2 are both {first.slug}; name two judges")
        print(_agreement_report(mining, agree(first, second)))
