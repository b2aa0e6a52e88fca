"""A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?

    python -m mining judge --task rg --limit 2 --judge random
    python -m mining judge --model qwen2.5-7b --task rg --price 0.40/1.60 --dry-run

Reads ``samples.jsonl``, writes ``judges/<judge>/`` beside it: ``calls.jsonl``, every answer as it
comes, ``verdicts.jsonl`` and ``run.json``. What is dropped without a verdict (equal to gold, seen
before, unparsable) is not asked about. Any OpenAI-compatible endpoint judges: the hosted one of the
paper with OPENAI_API_KEY, or JUDGE_BASE_URL. An answer that is no verdict is *unscored*, kept with
its reason. The planner's samples need no judge. With a second one, JUDGE2, ``judges/`` also holds
how far both agree: Cohen's kappa with its interval, and the confusions.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files, judging, stats, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import SCORED, Asking, Judge, JudgeSending, Unscored, verdict
from esc.llm import Asks
from esc.records import SAMPLES, Candidate, Key, read_turns
from esc.step import OPTIONS, RunFolder
from mining.routing import Judgement, to_judge
from mining.sample import Mining, Wanted, finished_samples
from mining.verdicts import FILTER_MENU, TEMPLATES, BlindVerdict, FilterVerdict, question

FORMAT = 1
VERDICTS = "verdicts.jsonl"
Sampled = tuple[GoldTurn, Candidate]
Blind = Annotated[
    bool,
    typer.Option("--blind", envvar="BLIND", help="no word on which is gold; sides are shuffled"),
]


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

    async def ask(self, asks: Asks, about: Sampled) -> FilterVerdict | Unscored:
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

    def row(self, about: Sampled, said: FilterVerdict | Unscored) -> Row:
        """The row of one verdict."""
        row = {"id": about[1].id, "sample": about[1].sample, "judge": self.slug}
        row["status"] = said.status
        if isinstance(said, FilterVerdict):
            return row | said.model_dump(mode="json")
        return row | {"reason": said.reason, "detail": said.detail}

    def report(self, told: Row) -> str:
        """The counts one should see: every question once."""
        lines = [
            f"verdicts    {self.folder / VERDICTS}: {told['asked']:,} asked = "
            + judging.every_row(told, told["scored"]),
            f"            {told['kept']:,} retained by the judge",
        ]
        if told["cost"] is not None:
            lines.append(f"cost        {told['cost']:,.4f} by this call")
        return "\n".join([*lines, *judging.closing(told)])

    def asking(self) -> Asking[Sampled]:
        """The judging of one mining; EscError where it is not sampled, or by other options."""
        mining, judge = self.mining, self.judge
        drawn_with, samples = finished_samples(mining)
        names = (BlindVerdict if self.blind else FilterVerdict).prompts
        # Everything that decides the verdicts, under the names a user knows.
        options = {
            "format": FORMAT,
            "MODEL": mining.model,
            "task": mining.task,
            "JUDGE": judge.name,
            "BLIND": self.blind,
            "samples": samples,
            "prompts": judge.prompts(TEMPLATES, names),
            "smoke": step.is_smoke(mining.model, mining.work) or judging.is_smoke(judge.name),
        }

        def records() -> list[Sampled]:
            train = gold_turns(mining.work, "train", drawn_with["LIMIT"])
            turns = {turn.id: turn for turn in train}
            sampled = read_turns(mining.folder / SAMPLES)
            return [(turns[one.id], one) for turn in sampled for one in to_judge(mining.task, turn)]

        def told(rows: Sequence[Row]) -> Row:
            kept = [row["retain"] for row in rows if row["status"] == SCORED]
            counts = {"asked": len(rows), "scored": len(kept), "kept": sum(kept)}
            return counts | judging.without_score(rows) | {"smoke": options["smoke"]}

        return Asking(
            folder=RunFolder(self.folder, options, VERDICTS),
            who=judge,
            records=records,
            ask=self.ask,
            row=self.row,
            told=told,
            report=self.report,
        )


def finished_verdicts(asked: Asked, samples: str) -> Row:
    """The options of the judge's verdicts on the samples of that SHA-256.

    Raises EscError where they are not there, not whole, or on other samples.
    """
    path, again = asked.folder / VERDICTS, asked.again()
    if RunFolder(asked.folder, {}, VERDICTS).finished() is None:
        others = sorted(one.parent.name for one in asked.folder.parent.glob(f"*/{VERDICTS}"))
        raise EscError(
            f"{path} is not there, not complete, or was changed since it was written (there are "
            f"some by {', '.join(others) or 'nobody'}); {again} asks for what is missing"
        )
    options = files.read_json(asked.folder / OPTIONS)
    if options.get("samples") != samples:
        raise EscError(f"{path} are on other samples than are there now; {asked.again(FORCE=1)}")
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
                    f"turn {candidate.id}; {asked.again(FORCE=1)}"
                )
            found = row["status"] == SCORED and FilterVerdict.model_validate(row)
            verdicts[candidate.key] = found or Unscored(row["reason"], row["detail"])
        yield turn, verdicts


LABELS = {"retain": ["Yes", "No"], "rejected_error": [*map(str, FILTER_MENU)]}
"""What is compared, to the labels that can be given."""


def _labels(verdict: Judgement) -> list[str | None]:
    if isinstance(verdict, FilterVerdict):
        return ["Yes" if verdict.retain else "No", verdict.rejected_error.value]
    return [None, None]


def agree(first: Asked, second: Asked) -> str:
    """Write how far two judges' finished verdicts on one mining agree; the numbers one should see.

    Raises EscError where verdicts are not whole, or on other samples.
    """
    from pandas import DataFrame, crosstab

    mining, judges = first.mining, [first.slug, second.slug]
    if first.slug == second.slug:
        raise EscError(f"--judge and --judge2 are both {first.slug}; name two judges")
    options, samples = finished_samples(mining)
    made_with = [options, *(finished_verdicts(one, samples) for one in (first, second))]
    ones, others = (
        DataFrame.from_dict(
            {
                key: _labels(one)
                for _, said in judged_turns(mining, by)
                for key, one in said.items()
            },
            orient="index",
            columns=list(LABELS),
        )
        for by in (first, second)
    )
    one, other = ones["retain"].notna(), others["retain"].notna()
    pairs = {"both": one & other, "first only": one & ~other, "second only": other & ~one}
    done: Row = {"task": mining.task, "model": mining.model, "judges": judges}
    done["pairs"] = {name: int(of.sum()) for name, of in (pairs | {"none": ~one & ~other}).items()}
    path = mining.judged(f"agreement_{'_'.join(judges)}.json")
    lines = [
        f"agreement   {path}: {first.slug} (rows) and {second.slug} (columns)",
        f"pairs       {', '.join(f'{n:,} scored by {who}' for who, n in done['pairs'].items())}",
    ]
    for what, labels in LABELS.items():
        both = DataFrame({"one": ones[what], "other": others[what]}).dropna()
        dialogues = [turn.rpartition("-")[0] for turn, _ in both.index]
        said = [
            Counter(zip(*of.to_dict("list").values(), strict=True))
            for _, of in both.groupby(dialogues, sort=False)
        ]
        cells = crosstab(both["one"], both["other"]).reindex(labels, columns=labels, fill_value=0)
        found = stats.agreement(said) | {"interval": stats.said("dialogue"), "dialogues": len(said)}
        done[what] = found | {"labels": labels, "confusion": cells.to_numpy().tolist()}
        value = "none" if found["kappa"] is None else f"{found['kappa']:.3f}"
        interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
        why = f" ({found['note']})" if found["note"] else ""
        agreed = f"agreed on {found['agreed']:,} of {found['n']:,}"
        lines.append(f"kappa       {what.replace('_', ' ')}: {value}{interval}{why}; {agreed}")
        lines.append(cells.rename_axis(index=None, columns=None).to_string())
    done |= {"samples": samples, "smoke": any(one["smoke"] for one in made_with)}
    with files.exclusive(path.parent):
        files.write_json(path, done)
    return "\n".join(lines + [step.SMOKE] * done["smoke"])


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
    if "sp" in wanted.task:
        raise EscError("the planner's errors are found by comparing names: TASK=rg or vanilla")
    minings, judges = wanted.minings(sending.model, sending.work), [sending.who()]
    if judge2:
        where = judge2_base_url or sending.judge_base_url
        judges.append(replace(sending, judge=judge2, judge_base_url=where).who())
    for mining in minings if sending.dry_run else ():
        if not (mining.folder / SAMPLES).is_file():
            print(f"{mining.task}: not sampled yet; what is asked is known once it is")
            minings = [one for one in minings if one is not mining]
    every = [[Asked(mining, judge, blind) for mining in minings] for judge in judges]
    code = max(
        judging.ask_all({f"judging {one.mining.task}": one.asking for one in asked}, sending)
        for asked in every
    )
    for both in zip(*every, strict=True) if judge2 and not (code or sending.dry_run) else ():
        print(agree(*both))
    return code
