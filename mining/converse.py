"""Pairs of replies from simulated conversations: two of one turn, told apart by what follows.

    make mine-converse && make dpo-rg VARIANT=converse

Seekers of *train* dialogues talk with planner and generator after SFT. In every turn two replies
are sampled under the same strategy, and the seeker answers each of them: where it says that it
feels differently, the reply after which the feeling is weaker is preferred. The conversation goes
on with the first. Writes ``runs/<model>/mining/converse/`` (``lookahead.jsonl``) and the set with
its manifest. This is no part of the paper, and a simulated seeker's relief is no person's.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from data_builders import pairs, registry, seekers
from esc import adapters, backbones, cli, files, paths, plan_and_speak, prompts, step
from esc.dialogue import Exchange
from esc.files import NoPairs, Row
from esc.judging import FOR_GOOD, Asking, Policies, Sending, Unscored, ask_all, is_smoke
from esc.llm import Asks, Failure, Generation, Sampling, derived_seed
from esc.paths import CONVERSE, Lineage
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.records import MinedSets
from esc.seeker import STEP, TEMPLATES, Card, Heard, Playing, Said, Seeker
from esc.step import RunFolder
from esc.strategies import Strategy

RECORDS = "lookahead.jsonl"
LINEAGE = Lineage(CONVERSE)
MODELS = ("sp-sft", "rg-sft")
SAMPLES = 2
_FORMAT = 1  # raised with every change of a record's meaning


async def _talk(
    asks: Asks, card: Card, *, seeker: Seeker, turns: int, decode: str, reply_tokens: int
) -> tuple[list[Row], str]:
    """(turns with both replies and what the seeker feels after either, why it ended too early).

    It ends where the seeker does, an answer of it cannot be read, or a request has none for good.
    """
    history, heard, rows, ended = list[Exchange](), list[Heard](), list[Row](), ""
    warm, held = (TEMPERATURE, TOP_P), plan_and_speak.constraint_of("sp", decode)
    try:
        said = await seeker.says(asks, card, heard)
        while isinstance(said, Said) and len(rows) < turns and not (rows and said.done):
            name, now = f"{card.id}-{len(rows)}", said
            chat = plan_and_speak.sp_chat(history, now.say)
            room = Sampling(PLAN_TOKENS, *warm)
            call = Generation(name, "plan", MODELS[0], chat, room, held, seeker.seed)
            plan, _ = await plan_and_speak.plan(asks, call)
            chat = plan_and_speak.rg_chat(history, now.say, plan.strategy or plan.raw)
            replies = list[Row]()
            for sample in range(SAMPLES * seeker.seed, SAMPLES * (seeker.seed + 1)):
                room, usual = Sampling(reply_tokens, *warm), f"reply {sample}"
                call = Generation(name, "speak", MODELS[1], chat, room, None, sample, usual)
                answer = await asks.ask(call)
                reply = answer.text.strip()
                after = await seeker.says(asks, card, [*heard, (now, reply)])
                felt = after.intensity if isinstance(after, Said) else None
                said = said if replies else after
                told = {"sample": sample, "text": reply, "truncated": answer.truncated}
                replies.append(told | {"intensity": felt})
            row = {"id": name, "strategy": plan.strategy.value if plan.strategy else None}
            told = {"history": [*history], "seeker": now.say, "intensity": now.intensity}
            rows.append(row | told | {"replies": replies})
            history.append((now.say, replies[0]["text"]))
            heard.append((now, replies[0]["text"]))
    except Failure as failed:
        if failed.kind not in FOR_GOOD:
            raise
        ended = str(failed)
    else:
        ended = f"unreadable seeker: {said.detail}" if isinstance(said, Unscored) else ""
    return rows, ended


def _felt(reply: Row) -> int:
    return reply["intensity"] or 0


def fate(turn: Row) -> str:
    """`PAIR`, or why there is none."""
    first, second = turn["replies"]
    reasons = {
        "unparsable strategy": turn["strategy"] is None,
        "empty reply": not (first["text"] and second["text"]),
        "same reply twice": first["text"].split() == second["text"].split(),
        "unreadable seeker": None in (first["intensity"], second["intensity"]),
        "same relief": first["intensity"] == second["intensity"],
        "better reply cut": min(turn["replies"], key=_felt)["truncated"],
    }
    return next((reason for reason, holds in reasons.items() if holds), pairs.PAIR)


def sides(turn: Row) -> tuple[Row, Row]:
    """Of a pair the better reply, after which less is felt, and the other."""
    better, worse = sorted(turn["replies"], key=_felt)
    return better, worse


def _pair(turn: Row, made_by: Row) -> Row:
    """The row of a preference set."""
    better, worse = sides(turn)
    said: Sequence[Exchange] = [(one, reply) for one, reply in turn["history"]]
    chat = plan_and_speak.rg_chat(said, turn["seeker"], Strategy(turn["strategy"]))
    felt = {"before": turn["intensity"]}
    felt |= {"chosen": better["intensity"], "rejected": worse["intensity"]}
    own = {"sample": worse["sample"], "seed": derived_seed(turn["id"], worse["sample"])}
    return (
        {"id": turn["id"]}
        | plan_and_speak.sharegpt(chat)
        | {"chosen": {"from": "gpt", "value": better["text"]}}
        | {"rejected": {"from": "gpt", "value": worse["text"]}}
        | {"error": None, "explanation": None, "quadrant": None}
        | {"provenance": made_by | own | {"intensity": felt}}
    )


def build(sending: Sending, made_by: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Write the set and its manifest; NoPairs, with an old set left whole, where it has no row."""
    work, model = sending.work, sending.model
    turns = [turn for row in rows for turn in row["turns"]]
    fates = Counter(map(fate, turns))
    ended = Counter(row["ended"].partition(":")[0] for row in rows if row["ended"])
    none = work / paths.no_pairs(model, "rg", LINEAGE)
    if not fates[pairs.PAIR]:
        why = pairs.listed(fates + ended) or "no turn"
        why = f"0 pairs of {len(turns):,} turns ({why}); take more cards (LIMIT) or TURNS"
        files.write_json(none, {"told": why, "fates": fates})
        raise NoPairs(why)
    name = paths.preference_dataset("rg", model, LINEAGE)
    described_in = work / paths.preference_manifest("rg", model, LINEAGE)
    with files.exclusive(work / paths.DATA):
        file = paths.preference_file(name)
        with files.jsonl_together(work, file, described_in=described_in) as (writer,):
            for turn in turns:
                if fate(turn) == pairs.PAIR:
                    writer.write(_pair(turn, made_by))
        registry.write_for(work, dict([registry.preference_entry("rg", model, LINEAGE)]))
        none.unlink(missing_ok=True)
        built = step.manifest(work)
        told = MinedSets(
            provenance=made_by,
            fates=dict(fates.most_common()),
            errors={},
            smoke=made_by["smoke"],
            licence=built.licence,
            corpus=built.corpus.origin,
            sets={name: writer.facts()},
        )
        files.write_json(described_in, told.model_dump())
    yield f"set         {work / file}: {fates[pairs.PAIR]:,} pairs of {len(turns):,} turns"
    lost = Counter({f"conversation ended: {one}": n for one, n in ended.items()})
    counts = (fates + lost).most_common()
    yield from (f"            {n:>9,}  {one}" for one, n in counts if one != pairs.PAIR)
    if made_by["smoke"]:
        yield step.SMOKE


@cli.command(
    examples="  python -m mining converse --limit 2 --turns 3\n"
    "  python -m mining converse --model qwen2.5-7b --seeker gpt-4.1-mini --price 0.40/1.60 "
    "--dry-run"
)
def main(
    sending: Sending,
    playing: Playing,
    limit: cli.Limit = None,
    decode: cli.Decode = None,
    base_url: cli.BaseUrl = None,
    layout: cli.Layout = "turn",
) -> int:
    """Pairs of replies to simulated seekers of train dialogues, told apart by what they feel next.

    The set is that of dpo-rg VARIANT=converse; no part of the paper.
    """
    Lineage(CONVERSE, layout=layout).checked("rg")
    model, work, backbone = sending.model, sending.work, backbones.get(sending.model)
    cards, who = seekers.cards(work, None, limit, side="train"), playing.who(sending)
    weights = adapters.weights_of(work, model, MODELS, elsewhere=bool(base_url))
    manifest = step.manifest(work)
    mode, room = decode or backbone.decode, backbone.reply_tokens
    made_by: Row = {
        "source": "conversation",
        "task": "rg",
        "model": model,
        "variant": CONVERSE,
        "sampler": MODELS[1],
        "weights": weights[MODELS[1]],
        "planner": weights[MODELS[0]],
        "seeker": who.name,
        "judge": None,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "decode": mode,
        "prompts": manifest.options["prompts"],
        "seeker_prompts": prompts.hash_of(TEMPLATES),
        "data": step.train_set(manifest),
        "split": "train",
        "smoke": is_smoke(who.name) or step.is_smoke(model, work),
    }
    options = made_by | {"format": _FORMAT, "reply_tokens": room, "cards": cards.sha256}
    options |= {"LIMIT": limit, "TURNS": playing.turns, "SEED": playing.seed}
    folder = (work / paths.no_pairs(model, "rg", LINEAGE)).parents[1]

    def row(card: Card, said: tuple[list[Row], str] | Failure) -> Row:
        if isinstance(said, Failure):
            gone: Row = {"turns": [], "ended": "", "failure": said.row()}
            return {"id": card.id, "status": "failed"} | gone
        return {"id": card.id, "status": "ok", "turns": said[0], "ended": said[1]}

    def told(rows: Sequence[Row]) -> Row:
        failed = sum(row["status"] == "failed" for row in rows)
        return {"cards": len(rows), "failed": failed}

    def report(facts: Row) -> str:
        lines = [f"talked      {folder / RECORDS}: {facts['cards']} cards of {cards.origin}"]
        again = f"incomplete  {facts['failed']} failed; the same command goes on with them"
        return "\n".join(lines + [again] * bool(facts["failed"]))

    seeker = Seeker(who, playing.seed)
    how: Row = {"turns": playing.turns, "decode": mode, "reply_tokens": room}
    asking = Asking(
        folder=RunFolder(folder, options, RECORDS),
        who=Policies(weights, base_url),
        records=lambda: cards.cards,
        ask=partial(_talk, seeker=seeker, **how),
        row=row,
        told=told,
        report=report,
        others={STEP: who},
        free=frozenset(weights),
    )
    code = ask_all({CONVERSE: lambda: asking}, sending)
    if not (code or sending.dry_run):
        rows = list(files.read_jsonl(folder / RECORDS))
        print("\n".join(build(sending, made_by, rows)))
    return code
