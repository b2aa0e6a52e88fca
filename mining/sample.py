"""Sampled answers of the trained models to train turns, each on the gold history before it.

    python -m mining sample --task sp --limit 2

``sp`` samples strategies, ``rg`` several replies under the gold strategy, ``vanilla`` entangled
answers, at temperature 0.7 and top-p 0.95. Reads the built train set, asks the running server (or
one started for this run, or BASE_URL), writes ``runs/<model>/mining/<task>/``: ``calls.jsonl``,
every answer as it comes, ``samples.jsonl`` and ``run.json``. From round 2 on it samples the models
that the round before trained. The same command goes on after an interruption, asking nothing twice.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from esc import adapters, backbones, cli, files, paths, plan_and_speak
from esc import step as built
from esc.adapters import weights_of
from esc.backbones import DECODE
from esc.dialogue import GoldTurn, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import (
    FOR_GOOD,
    Asking,
    Sending,
    add_judge_name,
    add_judge_url,
    ask_all,
    failed,
)
from esc.judging import add_arguments as add_sending
from esc.llm import Asks, Failure, Generation, Sampling, derived_seed
from esc.paths import Lineage
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.prompts import TASKS
from esc.records import SAMPLES
from esc.step import DONE, OPTIONS, RunFolder, is_smoke
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

    def again(self, **variables: object) -> str:
        """The make command that goes on with this mining as it was begun."""
        path = self.folder / OPTIONS
        begun = files.read_json(path) if path.is_file() else {}
        options = begun if isinstance(begun, dict) else {}
        as_begun = {name: options.get(name) for name in ("LIMIT", "SAMPLES")}
        if options.get("DECODE") != backbones.get(self.model).decode:
            as_begun["DECODE"] = options.get("DECODE")
        return self.make("mine", **as_begun, **variables)

    def step(self, name: str) -> str:
        """The command of a step of this mining that make does not have."""
        own = {key.lower(): value for key, value in self.lineage.variables.items()}
        return paths.step("mining", name, work=self.work, model=self.model, task=self.task, **own)

    def make(self, target: str, **variables: object) -> str:
        """The make command of a step of this mining."""
        return paths.make(
            f"{target}-{self.task}",
            work=self.work,
            model=self.model,
            **self.lineage.variables,
            **variables,
        )


def add_mining(parser: argparse.ArgumentParser) -> None:
    """Add the options that name one or several minings."""
    backbones.add_model(parser)
    cli.add_work(parser)
    parser.add_argument("--task", choices=TASKS, nargs="+", required=True)
    add_lineage(parser)


def add_lineage(parser: argparse.ArgumentParser) -> None:
    """Add variant and round."""
    parser.add_argument(
        "--variant",
        type=cli.optional,
        help="whose models a later round samples (default: the paper's own training)",
    )
    parser.add_argument("--round", type=cli.optional_count, help="default: 1, from the SFT models")


def add_judge(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a judge of pairs, and how it is asked."""
    add_judge_name(parser)
    add_judge_url(parser)
    add_blind(parser)


def add_blind(parser: argparse.ArgumentParser) -> None:
    """Add the option that hides from the judge which reply is the gold one."""
    parser.add_argument(
        "--blind",
        action="store_true",
        help="do not tell which reply is the gold one; sides are shuffled by the record",
    )


def minings_of(given: argparse.Namespace) -> list[Mining]:
    """The minings that parsed arguments name.

    Raises EscError for an unknown model, or a variant that a task does not have.
    """
    backbones.get(given.model)
    asked = Lineage(given.variant, given.round or 1)
    return [
        Mining(given.work, given.model, task, asked.checked(task).mining) for task in given.task
    ]


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


def failed_row(draw: Draw, failure: Failure | None) -> Row:
    """The row of a sample whose request has no answer."""
    assert failure is not None
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
        "smoke": is_smoke(mining.model, mining.work),
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
    if "missing" in facts:
        told = ", ".join(f"{count} {reason}" for reason, count in facts["missing"].items())
        lines.append(f"incomplete  {told}; the same command asks again for what is missing")
    return "\n".join(lines)


def asking(asked: Asked) -> Asking[Draw]:
    """The sampling of one task; EscError for whatever a user can mend."""
    mining = asked.mining
    elsewhere = bool(asked.base_urls)
    weights = weights_of(mining.work, mining.model, [mining.sampler], elsewhere=elsewhere)
    turns = gold_turns(mining.work, "train", asked.limit)
    options = options_of(asked, weights, turns)
    return Asking(
        folder=RunFolder(mining.folder, options, SAMPLES),
        what=f"sampling {mining.sampler}",
        run={"model": mining.model, "sampler": mining.sampler, "task": mining.task},
        records=lambda: [(turn, index) for turn in turns for index in range(asked.samples)],
        work=partial(one_sample, asked=asked),
        without=failed_row,
        told=lambda rows: _told(asked, options, rows),
        report=partial(report, asked),
        models=[mining.sampler],
        weights=weights,
        missing=lambda rows: _missing(rows).total(),
    )


def _told(asked: Asked, options: Row, rows: Sequence[Row]) -> Row:
    missing = _missing(rows)
    return {
        "samples": len(rows),
        "turns": len({row["id"] for row in rows}),
        "failed": failed(rows),
        "unparsable": sum(row["status"] == "ok" and row["strategy"] is None for row in rows),
        "truncated": sum(row["truncated"] for row in rows),
        "decode": asked.decode,
        "smoke": options["smoke"],
    } | ({"missing": dict(missing.most_common())} if missing else {})


def _missing(rows: Sequence[Row]) -> Counter[str]:
    """Why samples that another run may bring are not there."""
    kinds = Counter(str(row["failure"]["kind"]) for row in rows if row["status"] == "failed")
    # Another run would meet these again; where all are refused, it is the request that is at fault.
    for_good = {kind.value for kind in FOR_GOOD} if kinds.total() < len(rows) else set()
    return Counter({kind: count for kind, count in kinds.items() if kind not in for_good})


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    sending = Sending.of(given)
    decode = given.decode or backbones.get(given.model).decode
    askings = [
        asking(
            Asked(
                mining=mining,
                limit=given.limit,
                samples=given.samples or COUNTS[mining.task],
                decode=decode,
                base_urls=given.base_url,
            )
        )
        for mining in minings_of(given)
    ]
    return ask_all(askings, sending.at(given.base_url), sending)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining sample",
        description=__doc__,
        examples=(
            "  python -m mining sample --task sp --limit 2\n"
            "  python -m mining sample --task sp rg vanilla --model qwen2.5-7b\n"
            "  python -m mining sample --task rg --samples 5 --dry-run"
        ),
    )
    add_mining(parser)
    parser.add_argument("--limit", type=cli.optional_count, help="dialogues, drawn by their id")
    parser.add_argument(
        "--samples", type=cli.optional_count, help="of each turn (default: sp 1, rg 3, vanilla 1)"
    )
    parser.add_argument(
        "--decode",
        type=cli.optional,
        choices=(*DECODE, None),
        help="how a strategy is drawn (default: as the table of backbones says)",
    )
    parser.add_argument("--base-url", type=cli.optional, help="one or several, separated by commas")
    add_sending(parser)
    return parser


def finished_samples(mining: Mining) -> tuple[Row, Row]:
    """(options the samples were drawn with, facts in their ``run.json``).

    Raises EscError where they are not there, not complete, changed since, or drawn from the turns
    of another corpus or split than the built sets hold now.
    """
    folder, again = mining.folder, mining.again()
    done = folder / DONE
    if not (folder / SAMPLES).is_file():
        raise EscError(f"{folder / SAMPLES} does not exist; {again} samples it")
    if not done.is_file():
        raise EscError(f"{folder / SAMPLES} is not complete; {again} asks for what is missing")
    facts: Row = files.read_json(done)
    options: Row = files.read_json(folder / OPTIONS)
    if not (_holds(options, "data", "LIMIT") and _holds(facts, SAMPLES)):
        raise EscError(
            f"{folder / OPTIONS} or {DONE} there is not of this step; move {folder} away, {again}"
        )
    asked = {
        "MODEL": mining.model,
        "task": mining.task,
        "VARIANT": mining.lineage.variant,
        "ROUND": mining.lineage.round,
    }
    if other := files.differences({name: options.get(name) for name in asked}, asked):
        raise EscError(
            f"{folder} holds the samples of another mining ({'; '.join(other)}); move it away, "
            f"{again} samples its own"
        )
    if facts[SAMPLES]["sha256"] != files.sha256(folder / SAMPLES):
        raise EscError(f"{folder / SAMPLES} was changed since it was written; {again} renews it")
    changed = files.differences(options["data"], built.train_set(built.manifest(mining.work)))
    if changed:
        raise EscError(
            f"the samples in {folder} are of other train turns ({'; '.join(changed)}); build those "
            f"sets again, or {mining.again(FORCE=1)}"
        )
    return options, facts


def _holds(found: object, *names: str) -> bool:
    return isinstance(found, dict) and found.keys() >= set(names)
