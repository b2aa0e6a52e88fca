"""What sampling asks, writes and tells: the request of a sample, its row, what decides them all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from esc import backbones, built, plan_and_speak, smoke
from esc.chat.failures import Failure
from esc.chat.policy import Asks
from esc.chat.request import Generation, Sampling, derived_seed
from esc.files import Row
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.strategies import parse, strip_tag
from esc.turns import GoldTurn
from mining.candidates import SAMPLES
from mining.folders import Mining

FORMAT = 1
COUNTS = {"sp": 1, "rg": 3, "vanilla": 1}
"""Samples of a turn, by task."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a sampling."""

    mining: Mining
    limit: int | None
    samples: int
    decode: str
    base_urls: str | None


Draw = tuple[GoldTurn, int]
"""A turn and the 0-based index of one of its samples."""


async def one_sample(asks: Asks, draw: Draw, *, asked: Asked) -> Row:
    """The row of one sample; CallFailed where its request has no answer."""
    turn, mining = draw[0], asked.mining
    answer = await asks.ask(_call(draw, asked))
    row = _gold(draw) | {"status": "ok"}
    said = {"text": answer.text, "truncated": answer.truncated}
    if mining.task == "sp":
        strategy, response = parse(answer.text), None
    elif mining.task == "rg":
        strategy, response = turn.strategy, answer.text.strip()
    else:
        strategy, response = strip_tag(answer.text)
        response = response.strip()
    return row | {"strategy": strategy.value if strategy else None, "response": response} | said


def _gold(draw: Draw) -> Row:
    turn, index = draw
    return {
        "id": turn.id,
        "sample": index,
        "seed": derived_seed(turn.id, index),
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
    }


def failed_row(draw: Draw, failure: Failure) -> Row:
    """The row of a sample whose request has no answer."""
    nothing = {"strategy": None, "response": None, "text": "", "truncated": False}
    return _gold(draw) | {"status": "failed", "failure": asdict(failure)} | nothing


def _call(draw: Draw, asked: Asked) -> Generation:
    """The request for one sample."""
    (turn, index), task = draw, asked.mining.task
    chat, gold = plan_and_speak.chat_and_gold(task, turn)
    reply_tokens = backbones.get(asked.mining.model).reply_tokens
    constraint, tokens = {
        "sp": (plan_and_speak.strategy_constraint(asked.decode), PLAN_TOKENS),
        "rg": (None, reply_tokens),
        "vanilla": (plan_and_speak.tagged_constraint(asked.decode), PLAN_TOKENS + reply_tokens),
    }[task]
    return Generation(
        turn.id,
        "sample",
        asked.mining.sampler,
        chat,
        Sampling(tokens, TEMPERATURE, TOP_P),
        constraint,
        index,
        expected=gold,
    )


def options_of(asked: Asked, weights: dict[str, str], turns: Sequence[GoldTurn]) -> Row:
    """Everything that decides the samples, under the names a user knows."""
    mining = asked.mining
    manifest = built.manifest(mining.work)
    return {
        "format": FORMAT,
        "MODEL": mining.model,
        "task": mining.task,
        "VARIANT": mining.lineage.variant,
        "ROUND": mining.lineage.round,
        "LIMIT": asked.limit,
        "SAMPLES": asked.samples,
        "DECODE": asked.decode,
        "reply_tokens": backbones.get(mining.model).reply_tokens,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "turns": len(turns),
        "sampler": mining.sampler,
        "weights": weights[mining.sampler],
        "prompts": manifest["options"]["prompts"],
        "data": built.train_set(manifest),
        "smoke": smoke.is_smoke(mining.model, mining.work),
    }


def report(asked: Asked, facts: Row) -> str:
    """The counts one should see."""
    requests = facts["requests"]
    lines = [
        f"samples     {asked.mining.folder / SAMPLES}: {facts['samples']:,} samples of "
        f"{facts['turns']:,} train turns, by {asked.mining.sampler}",
        f"            {facts['unparsable']:,} without a strategy that parses "
        f"(DECODE={facts['decode']}), {facts['truncated']:,} cut at the length limit, "
        f"{facts['failed']:,} failed",
        f"requests    {requests['answered']:,} answered, {requests['cached']:,} from the cache, "
        f"{requests['failed']:,} failed",
    ]
    return "\n".join(lines)
