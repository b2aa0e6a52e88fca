"""A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?

    python -m mining judge --task rg --limit 2 --judge random
    python -m mining judge --model qwen2.5-7b --task rg --price 0.40/1.60 --dry-run

Reads ``samples.jsonl``, writes ``judges/<judge>/`` beside it: ``calls.jsonl``, every answer as it
comes, ``verdicts.jsonl`` and ``run.json``. What is dropped without a verdict (equal to gold, seen
before, unparsable) is not asked about. Any OpenAI-compatible endpoint judges: the hosted one of the
paper with OPENAI_API_KEY, or JUDGE_BASE_URL. An answer that is no verdict is *unscored*, kept with
its reason. The planner's samples need no judge.
"""

import argparse
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from esc import backbones, cli, files, prompts, step
from esc.dialogue import Exchange, GoldTurn, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import (
    FOR_GOOD,
    Asking,
    Judge,
    Reason,
    Sending,
    Unscored,
    Verdict,
    add_judge_name,
    ask_all,
    judge_for,
    keyless,
    read,
)
from esc.judging import add_arguments as add_sending
from esc.llm import Asks, Constraint, Failure, Generation, Sampling
from esc.prompts import Message, mark
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Candidate, Key, read_turns
from esc.stats import agreement, said
from esc.step import DONE, OPTIONS, RunFolder
from mining.routing import STAGE_OF, Judgement, screen
from mining.sample import Mining, add_blind, add_judge, add_mining, finished_samples, minings_of
from mining.verdicts import FILTER_MENU, BlindVerdict, ErrorVerdict, FilterVerdict, schema


def draw_filter(record: str) -> FilterVerdict:
    """A verdict on a pair, drawn by the record's id; about two in three keep it."""
    rng = _rng("filter", record)
    errors = [error for error in FILTER_MENU if STAGE_OF[error] == "rg"]
    drawn = "JUDGE=random: drawn, not judged"
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
        chosen_explanation=drawn,
        rejected_error=rejected,
        rejected_explanation=drawn,
    )


def draw_error(record: str) -> ErrorVerdict:
    """A verdict on a reply, drawn by the record's id."""
    error = _rng("error", record).choice(list(PsychError))
    return ErrorVerdict(
        contains_error=error is not PsychError.NONE,
        error=error,
        explanation="JUDGE=random: drawn, not judged",
        suggestion="",
    )


def _rng(what: str, record: str) -> random.Random:
    digest = hashlib.sha256(f"{what}\n{record}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))


TEMPLATES = Path(__file__).parent / "prompts"
PROMPTS = {
    FilterVerdict: ("filter_system.j2", "filter_user.j2"),
    BlindVerdict: ("blind_system.j2", "blind_user.j2"),
    ErrorVerdict: ("classify_system.j2", "classify_user.j2"),
}
"""Kind of verdict to the files of its system and user message."""
ANSWER_TOKENS = 512
NOTHING = "(nothing yet)"


def filter_pair(
    history: Sequence[Exchange], seeker: str, chosen: str, rejected: str
) -> tuple[Message, ...]:
    """The chat that asks whether a pair is fit for training."""
    said = {"seeker": seeker, "chosen": chosen, "rejected": rejected}
    return _chat(FilterVerdict, history, said)


def filter_blind(
    history: Sequence[Exchange], seeker: str, replies: tuple[str, str]
) -> tuple[Message, ...]:
    """The same of two replies in the given order, without a word on whose they are."""
    said = {"seeker": seeker, "reply_a": replies[0], "reply_b": replies[1]}
    return _chat(BlindVerdict, history, said)


def classify(
    history: Sequence[Exchange], seeker: str, strategy: str, reply: str
) -> tuple[Message, ...]:
    """The chat that asks which error a reply has."""
    return _chat(ErrorVerdict, history, {"seeker": seeker, "strategy": strategy, "reply": reply})


def verdict_request(
    record: str, model: str, kind: type[Verdict], chat: tuple[Message, ...], *, expected: str
) -> Generation:
    """The request for one verdict, greedy, under the verdict's schema.

    The schema is a hint: whatever comes back is read as strictly as an answer without one.
    """
    constraint = Constraint(schema=schema(kind), hint=True)
    sampling = Sampling(ANSWER_TOKENS)
    return Generation(record, "judge", model, chat, sampling, constraint, expected=expected)


def chosen_side(record: str) -> Literal["A", "B"]:
    """Where the gold reply stands in a blind question: shuffled by the record's id."""
    return "A" if hashlib.sha256(f"side\n{record}".encode()).digest()[0] % 2 else "B"


def files_of(kind: type[Verdict]) -> list[Path]:
    """The prompt files behind a kind of question."""
    return [prompts.source(TEMPLATES, name) for name in PROMPTS[kind]]


def _chat(
    kind: type[Verdict], history: Sequence[Exchange], said: dict[str, str]
) -> tuple[Message, ...]:
    system, user = PROMPTS[kind]
    menu = tuple(PsychError) if kind is ErrorVerdict else FILTER_MENU
    conversation = prompts.exchanges(history).strip() or NOTHING
    instructions = prompts.render(
        TEMPLATES,
        system,
        errors=[error for error in menu if error is not PsychError.NONE],
        menu=" or ".join(f'"{error}"' for error in menu),
    )
    asked = prompts.render(
        TEMPLATES,
        user,
        conversation=conversation,
        mark=mark(conversation, *said.values()),
        **said,
    )
    return Message("system", instructions), Message("user", asked)


FORMAT = 1
VERDICTS = "verdicts.jsonl"

Question = tuple[GoldTurn, Candidate]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the judge."""

    mining: Mining
    judge: Judge
    blind: bool

    @property
    def slug(self) -> str:
        """The name of the folder of its verdicts."""
        return self.judge.slug + ("_blind" if self.blind else "")

    def again(self, **variables: object) -> str:
        """The make command that goes on with this judging as it was begun."""
        blind = 1 if self.blind else None
        return self.mining.again(JUDGE=self.judge.name, BLIND=blind, **variables)


async def one_verdict(asks: Asks, question: Question, *, asked: Asked) -> Row:
    """The row of one verdict; CallFailed where its request has no answer."""
    turn, candidate = question
    if asked.judge.is_random:
        verdict: FilterVerdict | Unscored = draw_filter(_record(candidate))
        return verdict_row(asked, candidate, verdict)
    assert candidate.response is not None
    # By the turn, not the sample: two equal samples are one question.
    side = chosen_side(f"{turn.id}\n{candidate.response}") if asked.blind else "A"
    if asked.blind:
        replies = (turn.response, candidate.response)
        chat = filter_blind(turn.history, turn.seeker, replies if side == "A" else replies[::-1])
    else:
        chat = filter_pair(turn.history, turn.seeker, turn.response, candidate.response)
    kind = BlindVerdict if asked.blind else FilterVerdict
    call = verdict_request(turn.id, asked.judge.name, kind, chat, expected="{}")
    answer = await asks.ask(call)
    if asked.blind:
        read_blind = read(BlindVerdict, answer.text, truncated=answer.truncated)
        verdict = read_blind.unblinded(side) if isinstance(read_blind, BlindVerdict) else read_blind
    else:
        verdict = read(FilterVerdict, answer.text, truncated=answer.truncated)
    return verdict_row(asked, candidate, verdict)


def _record(candidate: Candidate) -> str:
    return f"{candidate.id}/{candidate.sample}"


def verdict_row(asked: Asked, candidate: Candidate, verdict: FilterVerdict | Unscored) -> Row:
    """The row of a verdict on a candidate."""
    row = {"id": candidate.id, "sample": candidate.sample, "judge": asked.slug}
    if isinstance(verdict, Unscored):
        told = {"reason": verdict.reason.value, "detail": verdict.detail}
        return row | {"status": "unscored"} | told
    return row | {"status": "scored"} | verdict.model_dump(mode="json")


def _without_answer(asked: Asked, question: Question, failure: Failure | None) -> Row:
    assert failure is not None
    candidate = question[1]
    reason = FOR_GOOD.get(failure.kind)
    if reason is not None:
        return verdict_row(asked, candidate, Unscored(reason, failure.message))
    told = {"kind": failure.kind.value, "message": failure.message}
    row = {"id": candidate.id, "sample": candidate.sample, "judge": asked.slug}
    return row | {"status": "failed", "failure": told}


def to_judge(mining: Mining, limit: int | None) -> Iterator[Question]:
    """Every sampled reply that needs a verdict, with its turn, in the order of the samples."""
    turns = {turn.id: turn for turn in gold_turns(mining.work, "train", limit)}
    for candidates in read_turns(mining.folder / SAMPLES):
        dropped = screen(mining.task, candidates)
        for candidate in candidates:
            if dropped[candidate.key] is None:
                yield turns[candidate.id], candidate


def options_of(asked: Asked, samples: Row) -> Row:
    """Everything that decides the verdicts, under the names a user knows."""
    kind = BlindVerdict if asked.blind else FilterVerdict
    texts = [] if asked.judge.is_random else files_of(kind)
    mining = asked.mining
    return {
        "format": FORMAT,
        "MODEL": mining.model,
        "task": mining.task,
        "JUDGE": asked.judge.name,
        "BLIND": asked.blind,
        "samples": samples[SAMPLES]["sha256"],
        "prompts": files.sha256_of(texts),
        "smoke": step.is_smoke(mining.model, mining.work) or asked.judge.is_smoke,
    }


def asking(asked: Asked) -> Asking[Question]:
    """The judging of one mining; EscError where it is not sampled, or by other options."""
    mining = asked.mining
    drawn_with, samples = finished_samples(mining)
    options = options_of(asked, samples)
    return Asking(
        folder=RunFolder(mining.judged(asked.slug), options, VERDICTS),
        what=f"judging {mining.task}",
        run={"judge": asked.slug, "task": mining.task, "model": mining.model},
        records=lambda: list(to_judge(mining, drawn_with["LIMIT"])),
        work=partial(one_verdict, asked=asked),
        without=partial(_without_answer, asked),
        told=lambda rows: _told(rows) | {"smoke": options["smoke"]},
        report=partial(_report, asked),
        models=[asked.judge.name],
        judge=", ".join(asked.judge.urls) or asked.judge.name,
    )


def _told(rows: Sequence[Row]) -> Row:
    count = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["status"] == "unscored")
    failures = Counter(row["failure"]["kind"] for row in rows if row["status"] == "failed")
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
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{count} {what}" for what, count in counts.items())

    folder = asked.mining.judged(asked.slug)
    lines = [
        f"verdicts    {folder / VERDICTS}: {facts['asked']:,} asked = {facts['scored']:,} scored "
        f"+ {facts['unscored']:,} unscored + {facts['failed']:,} failed",
        f"            {facts['kept']:,} retained by the judge",
    ]
    if facts["reasons"]:
        lines.append(f"unscored    {listed(facts['reasons'])}")
    if facts["cost"] is not None:
        lines.append(f"cost        {facts['cost']:,.4f} by this call")
    if facts["failures"]:
        told = listed(facts["failures"])
        lines.append(f"incomplete  {told}; the same command asks again for what is missing")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _judge_parser().parse_args(argv)
    backbones.get(given.model)
    if "sp" in given.task:
        raise EscError("the planner's errors are found by comparing names; judge rg or vanilla")
    sending = Sending.of(given)
    judge = judge_for(given.model, given.judge, given.judge_base_url, keyless=keyless(given))
    askings = []
    for mining in minings_of(given):
        if sending.dry_run and not (mining.folder / SAMPLES).is_file():
            print(f"{mining.task}: not sampled yet; what the judge is asked is known once it is")
        else:
            askings.append(asking(Asked(mining, judge, given.blind)))
    return ask_all(askings, lambda _: nullcontext(judge.urls), sending)


def _judge_parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining judge",
        description=__doc__,
        examples=(
            "  python -m mining judge --task rg --judge random\n"
            "  python -m mining judge --task rg vanilla --model qwen2.5-7b --price 0.40/1.60\n"
            "  python -m mining judge --task rg --judge my-model --judge-base-url "
            "http://127.0.0.1:8000/v1 --blind"
        ),
    )
    add_mining(parser)
    add_judge(parser)
    add_sending(parser, judge=True)
    return parser


SHOWN = 3


class StoredVerdicts:
    """The verdicts of one file, taken turn by turn in the order of the samples."""

    def __init__(self, asked: Asked, options: Row, written: str) -> None:
        """``written`` is the SHA-256 of the file as it was written."""
        self._written = written
        self.options = options
        """What they were judged with."""
        self._asked = asked
        self._path = asked.mining.judged(asked.slug) / VERDICTS
        self._rows = _checked(self._path, asked.slug)
        self._next = next(self._rows, None)
        self._lacking: list[Key] = []

    def take(self, wanted: Sequence[Key]) -> dict[Key, Judgement]:
        """The verdicts on the candidates of one turn; those that lack one are noted."""
        turn = {key[0] for key in wanted}
        found: dict[Key, Judgement] = {}
        while self._next is not None and self._next["id"] in turn:
            key = (self._next["id"], self._next["sample"])
            if key in found or key not in wanted:
                raise EscError(
                    f"{self._path}: sample {key[1]} of turn {key[0]} "
                    f"{'is there twice' if key in found else 'was not to be judged'}; judge again"
                )
            found[key] = _judgement(self._path, self._next)
            self._next = next(self._rows, None)
        self._lacking += [key for key in wanted if key not in found]
        return found

    def finish(self) -> None:
        """Raise EscError where samples lack a verdict, verdicts are left over, or were changed."""
        again = self._asked.again()
        if self._lacking:
            shown = ", ".join(f"{turn} sample {index}" for turn, index in self._lacking[:SHOWN])
            more = ", …" if len(self._lacking) > SHOWN else ""
            raise EscError(
                f"{self._path} lacks the verdicts on {len(self._lacking)} samples ({shown}{more}); "
                f"{again} FORCE=1 judges them (stored answers are kept)"
            )
        if self._next is not None:
            raise EscError(
                f"{self._path} holds a verdict on turn {self._next['id']}, which was not sampled, "
                f"or is in another order; {again} FORCE=1 writes it anew (stored answers are kept)"
            )
        if files.sha256(self._path) != self._written:
            raise EscError(
                f"{self._path} was changed since it was written; {again} writes it anew from the "
                "stored answers"
            )


def finished_verdicts(asked: Asked, samples: str) -> StoredVerdicts:
    """The judge's verdicts on the samples of that SHA-256.

    Raises EscError where they are not there, not complete, or on other samples.
    """
    folder = asked.mining.judged(asked.slug)
    again = asked.again()
    if not (folder / VERDICTS).is_file():
        others = sorted(path.parent.name for path in folder.parent.glob(f"*/{VERDICTS}"))
        have = f" (there are some by {', '.join(others)})" if others else ""
        raise EscError(f"{folder / VERDICTS} does not exist{have}; {again} asks the judge")
    if not (folder / DONE).is_file():
        raise EscError(f"{folder / VERDICTS} is not complete; {again} asks for what is missing")
    options: Row = files.read_json(folder / OPTIONS)
    done: Row = files.read_json(folder / DONE)
    if not (
        isinstance(options, dict)
        and isinstance(done, dict)
        and options.keys() >= {"samples", "JUDGE", "BLIND", "prompts", "smoke"}
        and VERDICTS in done
    ):
        raise EscError(
            f"{folder / OPTIONS} or {DONE} there is not of this step; move {folder} away, {again}"
        )
    if options["samples"] != samples:
        raise EscError(
            f"{folder / VERDICTS} are on other samples than are there now; {again} FORCE=1 judges "
            "these (stored answers are kept)"
        )
    return StoredVerdicts(asked, options, done[VERDICTS]["sha256"])


def _checked(path: Path, judge: str) -> Iterator[Row]:
    """The rows of a verdict file, of one judge alone."""
    for number, row in enumerate(files.read_jsonl(path), start=1):
        if not (isinstance(row.get("id"), str) and isinstance(row.get("sample"), int)):
            raise EscError(f"{path}, line {number}: no verdict of this kit (no id and sample)")
        if row.get("judge") != judge:
            raise EscError(
                f"{path}, line {number}: a verdict by {row.get('judge')}, among those by {judge}; "
                "verdicts of two judges are never mixed"
            )
        yield row


def _judgement(path: Path, row: Row) -> Judgement:
    try:
        if row["status"] == "scored":
            return FilterVerdict.model_validate(row)
        return Unscored(Reason(row["reason"]), row["detail"])
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EscError(f"{path}: the verdict on turn {row['id']} is none: {reason}") from error


Cells = Counter[tuple[str, str]]
"""(what the first says, what the second says) to a number of pairs."""
LABELS = {
    "retain": ("Yes", "No"),
    "rejected_error": tuple(error.value for error in FILTER_MENU),
}
"""What is compared to the labels that can be given."""


def compared(verdicts: Iterable[tuple[Key, Judgement, Judgement]]) -> Row:
    """What the written file says of the verdicts of two judges."""
    scored: Counter[str] = Counter()
    cells: dict[str, dict[str, Cells]] = {what: defaultdict(Counter) for what in LABELS}
    for (turn, _), one, other in verdicts:
        both = isinstance(one, FilterVerdict), isinstance(other, FilterVerdict)
        scored[_SCORED[both]] += 1
        if isinstance(one, FilterVerdict) and isinstance(other, FilterVerdict):
            dialogue = turn.rpartition("-")[0]
            for what in LABELS:
                cells[what][dialogue][_label(one, what), _label(other, what)] += 1
    return {"pairs": {name: scored[name] for name in _SCORED.values()}} | {
        what: _measured(what, list(of_dialogue.values())) for what, of_dialogue in cells.items()
    }


_SCORED = {
    (True, True): "both",
    (True, False): "first only",
    (False, True): "second only",
    (False, False): "none",
}


def _label(verdict: FilterVerdict, what: str) -> str:
    if what == "retain":
        return "Yes" if verdict.retain else "No"
    return verdict.rejected_error.value


def _measured(what: str, by_dialogue: list[Cells]) -> Row:
    cells = sum(by_dialogue, Cells())
    return agreement(by_dialogue) | {
        "interval": said("dialogue"),
        "dialogues": len(by_dialogue),
        # Rows are the first judge's labels, columns the second's.
        "labels": list(LABELS[what]),
        "confusion": [[cells[one, other] for other in LABELS[what]] for one in LABELS[what]],
    }


def agree(first: Asked, second: Asked) -> Row:
    """What two judges' finished verdicts on one mining have in common, as it is written.

    Raises EscError where verdicts are not whole, or on other samples.
    """
    mining = first.mining
    options, facts = finished_samples(mining)
    judged = [finished_verdicts(asked, facts[SAMPLES]["sha256"]) for asked in (first, second)]
    found: list[tuple[Key, Judgement, Judgement]] = []
    for turn in read_turns(mining.folder / SAMPLES):
        dropped = screen(mining.task, turn)
        wanted = [candidate.key for candidate in turn if dropped[candidate.key] is None]
        one, other = (verdicts.take(wanted) for verdicts in judged)
        found += [(key, one.get(key), other.get(key)) for key in wanted]
    for verdicts in judged:
        verdicts.finish()
    smoke = options["smoke"] or any(verdicts.options["smoke"] for verdicts in judged)
    done = {"task": mining.task, "model": mining.model, "judges": [first.slug, second.slug]}
    done |= compared(found) | {"samples": facts[SAMPLES]["sha256"], "smoke": bool(smoke)}
    path = path_of(mining, done)
    with files.exclusive(path.parent):
        files.write_json(path, done)
    return done


def path_of(mining: Mining, done: Row) -> Path:
    """Of the result: beside the judges' folders, one file for two judges."""
    return mining.judged(f"agreement_{'_'.join(done['judges'])}.json")


def _agreement_report(mining: Mining, done: Row) -> str:
    """The numbers one should see."""
    pairs = done["pairs"]
    lines = [
        f"agreement   {path_of(mining, done)}: {' and '.join(done['judges'])}",
        f"pairs       {sum(pairs.values()):,}: {pairs['both']:,} scored by both, "
        f"{pairs['first only']:,} by {done['judges'][0]} only, "
        f"{pairs['second only']:,} by {done['judges'][1]} only, {pairs['none']:,} by none",
    ]
    for what, name in (("retain", "retain"), ("rejected_error", "error of the rejected reply")):
        one = done[what]
        value = "none" if one["kappa"] is None else f"{one['kappa']:.3f}"
        interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        why = f" ({one['note']})" if one["note"] else ""
        lines.append(
            f"kappa       {name}: {value}{interval}{why}; "
            f"agreed on {one['agreed']:,} of {one['n']:,}"
        )
        wide = max(map(len, one["labels"]))
        for label, row in zip(one["labels"], one["confusion"], strict=True):
            counts = "".join(f"{count:>8,}" for count in row)
            lines.append(f"            {label:<{wide}}{counts}")
    lines.append(f"            rows {done['judges'][0]}, columns {done['judges'][1]}, same order")
    if done["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def agreement_main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _agreement_parser().parse_args(argv)
    if "sp" in given.task:
        raise EscError("the planner's errors are found by comparing names; compare rg or vanilla")
    judges = [
        judge_for(given.model, name, None, keyless=True) for name in (given.judge, given.judge2)
    ]
    for mining in minings_of(given):
        first, second = (Asked(mining, judge, given.blind) for judge in judges)
        if first.slug == second.slug:
            raise EscError(f"--judge and --judge2 are both {first.slug}; name two judges")
        print(_agreement_report(mining, agree(first, second)))


def _agreement_parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining agreement",
        description=__doc__,
        examples=(
            "  python -m mining agreement --task rg --judge gpt-4.1-mini-2025-04-14 "
            "--judge2 my-model\n"
            "  python -m mining agreement --model qwen2.5-7b --task rg vanilla --judge a "
            "--judge2 b --blind"
        ),
    )
    add_mining(parser)
    add_judge_name(parser)
    add_blind(parser)
    parser.add_argument("--judge2", required=True, help="the other judge")
    return parser
