"""A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?

    python -m mining judge --task rg --judge random

Reads ``samples.jsonl``, writes ``judges/<judge>/`` beside it: ``calls.jsonl``, every answer as it
comes, ``verdicts.jsonl`` and ``run.json``. What is dropped without a verdict (equal to gold, seen
before, unparsable) is not asked about. An answer that is no verdict is *unscored*, kept with its
reason. With JUDGE2 ``judges/`` also holds how far two judges agree: Cohen's kappa, the confusions.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from data_builders.pairs import Mining, Wanted
from esc import cli, files, judging, stats, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import SCORED, Asking, Judge, JudgeSending, Unscored, verdict
from esc.llm import Asks
from esc.records import SAMPLES, Candidate, Key, read_turns
from esc.step import RunFolder
from mining.routing import Judgement, to_judge
from mining.sample import finished, finished_samples
from mining.verdicts import FILTER_MENU, TEMPLATES, BlindVerdict, FilterVerdict, question

VERDICTS = "verdicts.jsonl"
Blind = Annotated[
    bool,
    typer.Option("--blind", envvar="BLIND", help="no word on which is gold; sides are shuffled"),
]
_Sampled = tuple[GoldTurn, Candidate]


def chosen_side(turn: str, sampled: str) -> str:
    """Where the gold reply stands in a blind question, A or B: two equal samples are one."""
    return "BA"[hashlib.sha256(f"side\n{turn}\n{sampled}".encode()).digest()[0] % 2]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the judge."""

    mining: Mining
    judge: Judge
    blind: bool

    @property
    def folder(self) -> Path:
        """Of its verdicts."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.judge.name).strip(".-") or "judge"
        return self.mining.folder / "judges" / (name + "_blind" * self.blind)

    def again(self, **variables: object) -> str:
        """The make command that goes on with this judging as it was begun."""
        blind = 1 if self.blind else None
        return self.mining.again(JUDGE=self.judge.name, BLIND=blind, **variables)

    def finished(self, samples: str) -> Row:
        """The options of its verdicts on the samples of that SHA-256; EscError as `finished`."""
        return finished(self.folder / VERDICTS, {"samples": samples}, self.again)[0]

    async def ask(self, asks: Asks, about: _Sampled) -> FilterVerdict | Unscored:
        """One verdict, or why there is none; Failure where its request has no answer."""
        (turn, candidate), reply = about, str(about[1].response)
        if not self.blind or self.judge.is_random:
            replies = {"chosen": turn.response, "rejected": reply}
            chat = question(FilterVerdict, turn.history, seeker=turn.seeker, **replies)
            drawn_by = f"filter\n{candidate.id}/{candidate.sample}"
            return await verdict(asks, self.judge, FilterVerdict, turn.id, chat, drawn_by)
        side = chosen_side(turn.id, reply)
        a, b = (turn.response, reply) if side == "A" else (reply, turn.response)
        chat = question(BlindVerdict, turn.history, seeker=turn.seeker, reply_a=a, reply_b=b)
        said = await verdict(asks, self.judge, BlindVerdict, turn.id, chat)
        return said.unblinded(side) if isinstance(said, BlindVerdict) else said

    def row(self, about: _Sampled, said: FilterVerdict | Unscored) -> Row:
        """The row of one verdict."""
        own = {"id": about[1].id, "sample": about[1].sample, "status": said.status}
        return own | (asdict(said) if isinstance(said, Unscored) else said.model_dump())

    def asking(self) -> Asking[_Sampled]:
        """The judging of one mining; EscError where it is not sampled, or by other options."""
        mining, judge, path = self.mining, self.judge, self.folder / VERDICTS
        drawn_with, samples = finished_samples(mining)
        kind = BlindVerdict if self.blind else FilterVerdict
        # Everything that decides the verdicts, under the names a user knows.
        options = {
            "format": 1,
            "MODEL": mining.model,
            "task": mining.task,
            "JUDGE": judge.name,
            "BLIND": self.blind,
            "samples": samples,
            "prompts": judge.prompts(TEMPLATES, kind.prompts),
            "smoke": step.is_smoke(mining.model, mining.work) or judging.is_smoke(judge.name),
        }

        def records() -> list[_Sampled]:
            turns = {one.id: one for one in gold_turns(mining.work, "train", drawn_with["LIMIT"])}
            sampled = read_turns(mining.folder / SAMPLES)
            return [(turns[one.id], one) for turn in sampled for one in to_judge(mining.task, turn)]

        def told(rows: Sequence[Row]) -> Row:
            kept = [row["retain"] for row in rows if row["status"] == SCORED]
            counts = {"asked": len(rows), "scored": len(kept), "kept": sum(kept)}
            return counts | judging.without_score(rows) | {"smoke": options["smoke"]}

        def report(told: Row) -> str:
            cost = "" if told["cost"] is None else f", {told['cost']:,.4f} spent by this call"
            every = judging.every_row(told, told["scored"])
            lines = [
                f"verdicts    {path}: {told['asked']:,} asked = {every}",
                f"            {told['kept']:,} retained by the judge{cost}",
            ]
            return "\n".join([*lines, *judging.closing(told)])

        return Asking(
            folder=RunFolder(path.parent, options, path.name),
            who=judge,
            records=records,
            ask=self.ask,
            row=self.row,
            told=told,
            report=report,
        )


Judged = tuple[list[Candidate], dict[Key, Judgement]]


def judged_turns(mining: Mining, asked: Asked | None) -> Iterator[Judged]:
    """Turn by turn its candidates and the verdicts on them; EscError where they are on others."""
    turns = read_turns(mining.folder / SAMPLES)
    if not asked:
        yield from ((turn, {}) for turn in turns)
        return
    rows = files.read_jsonl(asked.folder / VERDICTS)
    for turn in turns:
        verdicts: dict[Key, Judgement] = {}
        for one in to_judge(mining.task, turn):
            row = next(rows, {})
            if (row.get("id"), row.get("sample")) != one.key:
                lacking = f"lacks a verdict on sample {one.sample} of turn {one.id}"
                raise EscError(f"{asked.folder / VERDICTS} {lacking}; {asked.again(FORCE=1)}")
            scored = row["status"] == SCORED
            reason = None if scored else Unscored(row["reason"], row["detail"])
            verdicts[one.key] = reason or FilterVerdict.model_validate(row)
        yield turn, verdicts


_LABELS = {"retain": ["Yes", "No"], "rejected_error": [*map(str, FILTER_MENU)]}
"""What of two judges is compared, to the labels that can be given."""


def agree(first: Asked, second: Asked) -> str:
    """Write how far two judges' finished verdicts on a mining agree; the numbers one should see."""
    import pandas as pd

    mining, judges = first.mining, [first.folder.name, second.folder.name]
    if judges[0] == judges[1]:
        raise EscError(f"--judge and --judge2 are both {judges[0]}; name two judges")
    options, samples = finished_samples(mining)
    made_with = [options, *(one.finished(samples) for one in (first, second))]
    smoke = any(one["smoke"] for one in made_with)
    columns = ["id", "status", *_LABELS]
    ones, others = (
        pd.DataFrame(files.read_jsonl(one.folder / VERDICTS), columns=columns)
        for one in (first, second)
    )
    # Both are on the same samples, in one order.
    scored = (ones["status"] == SCORED) & (others["status"] == SCORED)
    path = first.folder.with_name(f"agreement_{'_'.join(judges)}.json")
    done: Row = {"task": mining.task, "model": mining.model, "judges": judges}
    done |= {"pairs": len(scored), "scored by both": int(scored.sum())}
    lines = [
        f"agreement   {path}: {judges[0]} (rows) and {judges[1]} (columns), both scored "
        f"{done['scored by both']:,} of {len(scored):,} pairs"
    ]
    dialogue = ones["id"].str.rpartition("-")[0]
    for what, labels in _LABELS.items():
        both = pd.DataFrame({"one": ones[what], "other": others[what]})[scored]
        both = both.replace({True: "Yes", False: "No"}).groupby(dialogue, sort=False)
        said = [Counter(of.itertuples(index=False, name=None)) for _, of in both]
        total = sum(said, Counter[tuple[str, str]]())
        cells = [[total[row, column] for column in labels] for row in labels]
        found = stats.agreement(said) | {"interval": stats.said("dialogue"), "dialogues": len(said)}
        done[what] = found | {"labels": labels, "confusion": cells}
        value = ("kappa", "low", "high", "note")
        told = " ".join(f"{found[name]:.3}" for name in value if found[name] is not None)
        lines.append(f"kappa       {what}: {told}; {found['agreed']:,} of {found['n']:,} agreed")
        lines.append(pd.DataFrame(cells, labels, labels).to_string())
    with files.exclusive(path.parent):
        files.write_json(path, done | {"samples": samples, "smoke": smoke})
    return "\n".join(lines + [step.SMOKE] * smoke)


@cli.command(
    examples="  python -m mining judge --task rg vanilla --model qwen2.5-7b --price 0.40/1.60\n"
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
    if "sp" in wanted.task:
        raise EscError("the planner's errors are found by comparing names: TASK=rg or vanilla")
    judges = [sending.who()]
    if judge2:
        where = judge2_base_url or sending.judge_base_url
        judges.append(replace(sending, judge=judge2, judge_base_url=where).who())
    minings = []
    for mining in wanted.minings(sending.model, sending.work):
        if sending.dry_run and not (mining.folder / SAMPLES).is_file():
            print(f"{mining.task}: not sampled yet; what is asked is known once it is")
        else:
            minings.append(mining)
    every = [[Asked(mining, judge, blind) for mining in minings] for judge in judges]
    askings = [{f"judging {one.mining.task}": one.asking for one in asked} for asked in every]
    code = max(judging.ask_all(one, sending) for one in askings)
    if judge2 and not (code or sending.dry_run):
        print(*map(agree, *every), sep="\n")
    return code
