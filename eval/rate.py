"""A judge of whole conversations: seven dimensions from 0 to 4, and how a system meets danger.

The dimensions are those of ESC-Eval (Zhao et al., 2024); the anchors are this project's. Of cards
with signs of danger the judge says instead whether the system noticed it, and pointed to help by
people. Reads ``conversations.jsonl`` of every system; writes, in ``judge/`` beside each,
``calls.jsonl``, ``ratings.jsonl``, ``ratings.json`` and last ``run.json``. What is no verdict is
*unscored*, kept with its reason. A model's verdict is none of a clinician.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator

from esc import cli, dialogue, files, judging, paths, prompts
from esc.dialogue import JUDGED_BY_EMBEDDED
from esc.files import EscError, Row
from esc.judging import DRAWN, Asking, Unscored, Verdict
from esc.llm import Asks, Reason
from esc.stats import mean, share
from esc.step import DONE, RunFolder
from esc.strategies import HASH
from eval import cases
from eval.conversation_measures import (
    COMPARED,
    CONVERSATIONS,
    MEASURES,
    RATINGS,
    SUMMARY,
    compared,
)
from eval.judge import ANSWER_TOKENS, TEMPLATES, Judging, signature
from mining.verdicts import YesNo

_USER = TEMPLATES / "rate_user.j2"
_FORMAT = 1  # raised with every change of what its files mean


def _mark(title: str) -> Any:
    return Field(title=title, ge=0, le=4, json_schema_extra={"type": "number"})


class Rating(Verdict):
    """How good a system is over a whole conversation."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE
    prompt: ClassVar[str] = "rate_system.j2"

    fluency: float = _mark("fluency")
    expression: float = _mark("expression")
    empathy: float = _mark("empathy")
    information: float = _mark("information")
    skill: float = _mark("skill")
    humanoid: float = _mark("humanoid")
    overall: float = _mark("overall")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object) -> object:
        return str(value) if isinstance(value, bool) else value

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """Whole numbers of the scale."""
        return cls(**{name: chance.randrange(5) for name in cls.model_fields})


class Danger(Verdict):
    """How a system meets signs of danger."""

    prompt: ClassVar[str] = "danger_system.j2"

    reason: str = Field(default="", title="reason")
    noticed: YesNo = Field(title="noticed")
    pointed: YesNo = Field(title="pointed")

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """Either way."""
        said = {name: chance.choice(("Yes", "No")) for name in ("noticed", "pointed")}
        return cls.model_validate({"reason": DRAWN} | said)


def _asking(folder: Path, how: Judging, kind: type[Rating | Danger]) -> Asking[Row]:
    judge, smoke = how.who(), files.read_json(folder / MEASURES)["smoke"]
    talked = {row["id"]: row for row in files.read_jsonl(folder / CONVERSATIONS)}
    n = how.n or (JUDGED_BY_EMBEDDED if judge.is_embedded else None)
    drawn = [talked[name] for name in dialogue.order(talked)[:n]]
    options = how.options(judge, "rate", [kind.prompt, _USER.name], smoke=smoke)
    options |= {
        "format": _FORMAT,
        "JUDGE_N": n,
        "conversations": files.sha256(folder / CONVERSATIONS),
    }

    async def ask(asks: Asks, row: Row) -> Rating | Danger | Unscored:
        said = [(one["said"], one["reply"]) for one in row.get("turns", ())]
        if not said:
            return Unscored("no reply in it", status=judging.NOT_JUDGED)
        system = prompts.render(TEMPLATES, kind.prompt)
        last = row["last"]["said"] if row["last"] else ""
        chat = judging.question(system, _USER, said, {"last": last})
        by = f"rate\n{folder.name}\n{row['id']}"
        return await judging.verdict(asks, judge, kind, row["id"], chat, by, tokens=ANSWER_TOKENS)

    def row(asked: Row, said: Rating | Danger | Unscored) -> Row:
        found = {"id": asked["id"], "status": said.status}
        if isinstance(said, Unscored):
            return found | {"reason": said.reason, "detail": said.detail}
        return found | said.model_dump()

    def told(rows: Sequence[Row]) -> Row:
        scored = [one for one in rows if one["status"] == judging.SCORED]
        found = {}
        for name in sorted(kind.model_fields.keys() - {"reason"}, key=[*kind.model_fields].index):
            values = [(one["id"], one[name]) for one in scored]
            if kind is Danger:
                found[name] = share(Counter((int(one), 1) for _, one in values), "card")
                found[name] |= {"n": len(values)}
            else:
                found[name] = mean(values, "card")
        about = f"conversations:{len(drawn)} of {len(talked)}"
        about += cases.sees(folder / CONVERSATIONS, "its own")
        return {
            "judge": judge.name,
            "of": options["conversations"],
            "list": HASH,
            "signature": signature(options, "temperature:0", "scale:0-4", about),
            "conversations": len(rows),
            "dimensions": found,
            **judging.without_score(rows),
            "smoke": options["smoke"],
        }

    return Asking(
        folder=RunFolder(folder / "judge", options, RATINGS),
        who=judge,
        records=lambda: drawn,
        ask=ask,
        row=row,
        told=told,
        report=partial(_report, folder / "judge" / RATINGS),
        summary=SUMMARY,
    )


def _report(path: Path, found: Row) -> str:
    counted = {
        name: one.get("share", one.get("value")) for name, one in found["dimensions"].items()
    }
    shown = ", ".join(f"{n} {'—' if one is None else f'{one:.2f}'}" for n, one in counted.items())
    rows = judging.every_row(found, max(one["n"] for one in found["dimensions"].values()))
    lines = [f"rated       {path}: {rows}; judge {found['judge']}", f"            {shown}"]
    return "\n".join([*lines, *judging.closing(found)])


@cli.command(
    examples="  python -m eval rate --model qwen2.5-7b --judge gpt-4.1-mini --price 0.40/1.60\n"
    "  python -m eval rate --judge random"
)
def main(how: Judging) -> int:
    """A judge of every simulated conversation: seven dimensions, 0 to 4; of danger, if noticed.

    --n takes so many conversations of each system, drawn by their card.
    """
    wanted = {}
    for danger in (False, True):
        folder = how.work / paths.conversations(how.model, danger=danger)
        kind: type[Rating | Danger] = Danger if danger else Rating
        for path in sorted(folder.glob(f"*/{DONE}")):
            wanted[f"{folder.name}/{path.parent.name}"] = partial(_asking, path.parent, how, kind)
    if not wanted:
        talk = paths.make("converse", work=how.work, model=how.model)
        raise EscError(f"no whole conversations of {how.model} in {how.work}; {talk} holds them")
    code = judging.ask_all(wanted, how)
    folder = how.work / paths.conversations(how.model)
    if not how.dry_run and folder.is_dir():
        files.write_json(folder / COMPARED, compared(folder))
    return code
