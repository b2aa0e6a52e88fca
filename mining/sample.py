"""Sampled answers of the trained models to train turns, each on the gold history before it.

    python -m mining sample --task sp --limit 2

``sp`` samples strategies, ``rg`` several replies under the gold strategy, ``vanilla`` entangled
answers, at temperature 0.7 and top-p 0.95. Asks the running server (or one started for this run, or
BASE_URL), writes ``runs/<model>/mining/<task>/``: ``calls.jsonl``, every answer as it comes,
``samples.jsonl`` and ``run.json``. From round 2 on it samples what the round before trained.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from data_builders.pairs import Mining, Wanted
from esc import adapters, backbones, cli, files, plan_and_speak, prompts, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import FOR_GOOD, Asking, Policies, Sending, ask_all, failed
from esc.llm import Asks, Failure, Generation, Sampling, derived_seed
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.records import SAMPLES, Candidate
from esc.step import OPTIONS, RunFolder
from esc.strategies import parse, strip_tag

COUNTS = {"sp": 1, "rg": 3, "vanilla": 1}
"""Samples of a turn, by task."""
_Draw = tuple[GoldTurn, int]
"""A turn and the 0-based index of one of its samples."""


async def _sampled(asks: Asks, draw: _Draw, *, mining: Mining, model: str, decode: str) -> Row:
    (turn, index), task = draw, mining.task
    chat, gold = plan_and_speak.chat_and_gold(task, turn, mining.lineage.layout)
    reply_tokens = backbones.get(mining.model).reply_tokens
    tokens = (task != "rg") * PLAN_TOKENS + (task != "sp") * reply_tokens
    held = Sampling(tokens, TEMPERATURE, TOP_P), plan_and_speak.constraint_of(task, decode)
    answer = await asks.ask(Generation(turn.id, "sample", model, chat, *held, index, expected=gold))
    strategy, said = strip_tag(answer.text) if task == "vanilla" else (turn.strategy, answer.text)
    return {
        "strategy": parse(answer.text) if task == "sp" else strategy,
        "response": None if task == "sp" else said.strip(),
        "text": answer.text,
        "truncated": answer.truncated,
    }


def _row(draw: _Draw, said: Row | Failure) -> Row:
    turn, index = draw
    own = {"failure": said.row()} if isinstance(said, Failure) else said
    row = Candidate(
        id=turn.id,
        sample=index,
        seed=derived_seed(turn.id, index),
        gold_strategy=turn.strategy,
        gold_response=turn.response,
        status="failed" if isinstance(said, Failure) else "ok",
        **own,
    )
    return row.model_dump(mode="json", exclude=None if row.failure else {"failure"})


def asking(
    mining: Mining, limit: int | None, samples: int, decode: str, base_url: str | None
) -> Asking[_Draw]:
    """The sampling of one task: ``samples`` of each turn of ``limit`` dialogues."""
    model = adapters.start(mining.task, mining.lineage)
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
        "prompts": prompts.wording(mining.lineage.layout),
        "data": step.train_set(manifest),
        "smoke": step.is_smoke(mining.model, mining.work),
    }

    def told(rows: Sequence[Row]) -> Row:
        return {
            "samples": len(rows),
            "failed": failed(rows),
            "unparsable": sum(row["status"] == "ok" and row["strategy"] is None for row in rows),
            "truncated": sum(row["truncated"] for row in rows),
            "missing": _missing(rows),
        }

    def report(facts: Row) -> str:
        path, asked = mining.folder / SAMPLES, facts["requests"]
        lines = [
            f"samples     {path}: {facts['samples']:,} of {len(turns):,} train turns, by {model}",
            f"            {facts['unparsable']:,} without a strategy that parses, "
            f"{facts['truncated']:,} cut at the length limit, {facts['failed']:,} failed",
            f"requests    {asked['answered']:,} answered, {asked['cached']:,} from the cache",
        ]
        again = "incomplete  the same command asks again for what is missing"
        return "\n".join(lines + [again] * bool(facts["missing"]))

    return Asking(
        folder=RunFolder(mining.folder, options, SAMPLES),
        who=Policies(weights, base_url),
        records=lambda: [(turn, index) for turn in turns for index in range(samples)],
        ask=partial(_sampled, mining=mining, model=model, decode=decode),
        row=_row,
        told=told,
        report=report,
        missing=_missing,
    )


def _missing(rows: Sequence[Row]) -> int:
    """How many samples are not there that another run may bring."""
    kinds = [row["failure"]["kind"] for row in rows if row["status"] == "failed"]
    # Some would fail again for good; where all are refused, it is the request that is at fault.
    lasting = FOR_GOOD if len(kinds) < len(rows) else ()
    return sum(kind not in lasting for kind in kinds)


def finished(path: Path, now: Row, again: Callable[..., str]) -> tuple[Row, str]:
    """(options of records, their SHA-256); EscError where they are not whole, or not of ``now``."""
    facts = RunFolder(path.parent, {}, path.name).finished()
    if facts is None:
        raise EscError(
            f"{path} is not there, not complete, or was changed since it was written; {again()} "
            "asks for what is missing"
        )
    options = files.read_json(path.parent / OPTIONS)
    if other := files.differences({name: options.get(name) for name in now}, now):
        raise EscError(
            f"{path} is of another mining, or of other train turns or samples than there are now "
            f"({'; '.join(other)}); build those again, move it away, or {again(FORCE=1)}"
        )
    return options, facts[path.name]["sha256"]


def finished_samples(mining: Mining) -> tuple[Row, str]:
    """As `finished`, of a mining's samples."""
    now = mining.named | {"data": step.train_set(step.manifest(mining.work))}
    return finished(mining.folder / SAMPLES, now, mining.again)


@cli.command(
    examples="  python -m mining sample --task sp rg vanilla --model qwen2.5-7b\n"
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
        f"sampling {mining.task}": partial(
            asking, mining, limit, samples or COUNTS[mining.task], drawn, base_url
        )
        for mining in wanted.minings(sending.model, sending.work)
    }
    return ask_all(askings, sending)
