"""Sampled answers of the trained models to train turns, each on the gold history before it.

    python -m mining sample --task sp --limit 2

``sp`` samples strategies, ``rg`` several replies under the gold strategy, ``vanilla`` entangled
answers, at temperature 0.7 and top-p 0.95. Reads the built train set, asks the running server (or
one started for this run, or BASE_URL), writes ``runs/<model>/mining/<task>/``: ``calls.jsonl``,
every answer as it comes, ``samples.jsonl`` and ``run.json``. From round 2 on it samples the models
that the round before trained. The same command goes on after an interruption, asking nothing twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from esc import adapters, backbones, cli, files, paths, plan_and_speak, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import FOR_GOOD, Asking, Policies, Sending, ask_all, failed
from esc.llm import Asks, Failure, Generation, Sampling, derived_seed
from esc.paths import Lineage
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.prompts import TASKS
from esc.records import SAMPLES, Candidate
from esc.step import OPTIONS, RunFolder
from esc.strategies import parse, strip_tag


@dataclass(frozen=True, slots=True)
class Mining:
    """One mining of one task."""

    work: Path
    model: str
    task: str
    lineage: Lineage
    """As `Lineage.mining`."""

    @property
    def folder(self) -> Path:
        """Of the samples."""
        return self.work / paths.mining(self.model, self.lineage) / self.task

    def judged(self, slug: str) -> Path:
        """Of one judge's verdicts."""
        return self.folder / "judges" / slug

    @property
    def routed(self) -> Path:
        """Of the routes and pairs."""
        return self.folder / "routed"

    @property
    def no_pairs(self) -> Path:
        """What routing leaves where no pair came out; those that lie there are then of before."""
        return self.work / paths.no_pairs(self.model, self.task, self.lineage)

    @property
    def sampler(self) -> str:
        """The served name of the policy that is sampled: SFT, or what the round before trained."""
        return adapters.start(self.task, self.lineage)

    @property
    def named(self) -> Row:
        """The options that tell it from others, as ``options.json`` has them."""
        lineage = {"VARIANT": self.lineage.variant, "ROUND": self.lineage.round}
        return {"MODEL": self.model, "task": self.task, **lineage}

    def again(self, **variables: object) -> str:
        """The make command that goes on with this mining as it was begun."""
        begun = files.read_json(self.folder / OPTIONS, default={})
        if begun.get("DECODE") == backbones.get(self.model).decode:
            del begun["DECODE"]
        as_begun = {name: begun.get(name) for name in ("LIMIT", "SAMPLES", "DECODE")}
        of = self.lineage.variables | as_begun | variables
        return paths.make(f"mine-{self.task}", work=self.work, model=self.model, **of)

    def step(self, name: str) -> str:
        """The command of a step of this mining that make does not have."""
        own = {key.lower(): value for key, value in self.lineage.variables.items()}
        return paths.step("mining", name, work=self.work, model=self.model, task=self.task, **own)


@dataclass(frozen=True)
class Wanted:
    """Which minings a user means, as options of a step."""

    task: cli.Tasks
    variant: cli.Variant = None
    round: cli.Round = 1

    def minings(self, model: str, work: Path) -> list[Mining]:
        """One per task; EscError for an unknown model or task, or a variant that it has not."""
        backbones.get(model)
        if unknown := [task for task in self.task if task not in TASKS]:
            raise EscError(f"TASK={unknown[0]} is none of {', '.join(TASKS)}")
        lineage, tasks = Lineage(self.variant, self.round), dict.fromkeys(self.task)
        return [Mining(work, model, task, lineage.checked(task).mining) for task in tasks]


COUNTS = {"sp": 1, "rg": 3, "vanilla": 1}
"""Samples of a turn, by task."""
Draw = tuple[GoldTurn, int]
"""A turn and the 0-based index of one of its samples."""


async def one_sample(asks: Asks, draw: Draw, *, mining: Mining, decode: str) -> Row:
    """What is sampled once; Failure where its request has no answer."""
    (turn, index), task = draw, mining.task
    chat, gold = plan_and_speak.chat_and_gold(task, turn)
    reply_tokens = backbones.get(mining.model).reply_tokens
    constraint = plan_and_speak.constraint_of(task, decode)
    tokens = (task != "rg") * PLAN_TOKENS + (task != "sp") * reply_tokens
    sampling, model = Sampling(tokens, TEMPERATURE, TOP_P), mining.sampler
    answer = await asks.ask(
        Generation(turn.id, "sample", model, chat, sampling, constraint, index, expected=gold)
    )
    strategy, said = strip_tag(answer.text) if task == "vanilla" else (turn.strategy, answer.text)
    return {
        "strategy": parse(answer.text) if task == "sp" else strategy,
        "response": None if task == "sp" else said.strip(),
        "text": answer.text,
        "truncated": answer.truncated,
    }


def _row(draw: Draw, said: Row | Failure) -> Row:
    turn, index = draw
    if isinstance(said, Failure):
        said = {"failure": said.row()}
    row = Candidate(
        id=turn.id,
        sample=index,
        seed=derived_seed(turn.id, index),
        gold_strategy=turn.strategy,
        gold_response=turn.response,
        status="failed" if "failure" in said else "ok",
        **said,
    )
    return row.model_dump(mode="json", exclude=None if row.failure else {"failure"})


def asking(
    mining: Mining, limit: int | None, samples: int, decode: str, base_url: str | None
) -> Asking[Draw]:
    """The sampling of one task, with ``samples`` of each turn of ``limit`` dialogues.

    Raises EscError for whatever a user can mend.
    """
    model = mining.sampler
    weights = adapters.weights_of(mining.work, mining.model, [model], elsewhere=bool(base_url))
    turns = gold_turns(mining.work, "train", limit)
    manifest = step.manifest(mining.work)
    # Everything that decides the samples, under the names a user knows.
    options = {
        "format": 1,
        **mining.named,
        "LIMIT": limit,
        "SAMPLES": samples,
        "DECODE": decode,
        "reply_tokens": backbones.get(mining.model).reply_tokens,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "turns": len(turns),
        "sampler": model,
        "weights": weights[model],
        "prompts": manifest["options"]["prompts"],
        "data": step.train_set(manifest),
        "smoke": step.is_smoke(mining.model, mining.work),
    }
    return Asking(
        folder=RunFolder(mining.folder, options, SAMPLES),
        who=Policies(weights, base_url),
        records=lambda: [(turn, index) for turn in turns for index in range(samples)],
        ask=partial(one_sample, mining=mining, decode=decode),
        row=_row,
        told=lambda rows: _told(rows) | {"decode": decode, "smoke": options["smoke"]},
        report=partial(_report, mining),
        missing=lambda rows: _missing(rows).total(),
    )


def _told(rows: Sequence[Row]) -> Row:
    return {
        "samples": len(rows),
        "turns": len({row["id"] for row in rows}),
        "failed": failed(rows),
        "unparsable": sum(row["status"] == "ok" and row["strategy"] is None for row in rows),
        "truncated": sum(row["truncated"] for row in rows),
        "missing": dict(_missing(rows).most_common()),
    }


def _missing(rows: Sequence[Row]) -> Counter[str]:
    """Why samples that another run may bring are not there."""
    kinds = Counter(str(row["failure"]["kind"]) for row in rows if row["status"] == "failed")
    # Another run would meet these again; where all are refused, it is the request that is at fault.
    for_good = {kind.value for kind in FOR_GOOD} if kinds.total() < len(rows) else set()
    return Counter({kind: count for kind, count in kinds.items() if kind not in for_good})


def _report(mining: Mining, facts: Row) -> str:
    """The counts one should see."""
    lines = [
        f"samples     {mining.folder / SAMPLES}: {facts['samples']:,} samples of "
        f"{facts['turns']:,} train turns, by {mining.sampler}",
        f"            {facts['unparsable']:,} without a strategy that parses "
        f"(DECODE={facts['decode']}), {facts['truncated']:,} cut at the length limit, "
        f"{facts['failed']:,} failed",
        "requests    {answered:,} answered, {cached:,} from the cache, {failed:,} failed".format(
            **facts["requests"]
        ),
    ]
    if facts["missing"]:
        told = ", ".join(f"{count} {reason}" for reason, count in facts["missing"].items())
        lines.append(f"incomplete  {told}; the same command asks again for what is missing")
    return "\n".join(lines)


def finished_samples(mining: Mining) -> tuple[Row, str]:
    """(options the samples were drawn with, SHA-256 of their file).

    Raises EscError where they are not there, not whole, or drawn from the turns of another corpus
    or split than the built sets hold now.
    """
    folder = mining.folder
    facts = RunFolder(folder, {}, SAMPLES).finished()
    if facts is None:
        raise EscError(
            f"{folder / SAMPLES} is not there, not complete, or was changed since it was written; "
            f"{mining.again()} asks for what is missing"
        )
    options: Row = files.read_json(folder / OPTIONS)
    now = mining.named | {"data": step.train_set(step.manifest(mining.work))}
    if other := files.differences({name: options.get(name) for name in now}, now):
        raise EscError(
            f"{folder} holds samples of another mining, or of other train turns than are built now "
            f"({'; '.join(other)}); build those again, move it away, or {mining.again(FORCE=1)}"
        )
    return options, facts[SAMPLES]["sha256"]


@cli.command(
    examples="  python -m mining sample --task sp --limit 2\n"
    "  python -m mining sample --task sp rg vanilla --model qwen2.5-7b\n"
    "  python -m mining sample --task rg --samples 5 --dry-run"
)
def main(
    wanted: Wanted,
    sending: Sending,
    limit: cli.Limit = None,
    samples: Annotated[
        int | None, typer.Option(envvar="SAMPLES", min=1, help="of each turn [default: rg 3, 1]")
    ] = None,
    decode: cli.Decode = None,
    base_url: cli.BaseUrl = None,
) -> int:
    """Sampled answers of the trained models to train turns, each on the gold history before it."""
    drawn = decode or backbones.get(sending.model).decode
    askings = {
        f"sampling {mining.sampler}": partial(
            asking, mining, limit, samples or COUNTS[mining.task], drawn, base_url
        )
        for mining in wanted.minings(sending.model, sending.work)
    }
    return ask_all(askings, sending)
