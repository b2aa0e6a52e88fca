"""One score: its question, the answer read strictly, and its row: a score of it or none."""

from collections.abc import Sequence
from dataclasses import dataclass

from esc.chat.failures import Failure
from esc.chat.policy import Asks
from esc.files import Row
from esc.verdicts import Unscored
from eval import ratings
from eval.items import Item
from eval.judging import Bench
from eval.ratings import Dimension, Score
from eval.scores import NOT_JUDGED, SCORED, UNSCORED, lost


@dataclass(frozen=True, slots=True)
class Question:
    """One score to ask for."""

    item: Item
    dimension: Dimension
    sample: int
    """1 where it is asked a second time."""


def questions_of(items: Sequence[Item], repeat: int) -> list[Question]:
    """Every score of every item; then those of the first ``repeat`` turns again."""
    again = set(list(dict.fromkeys(item.id for item in items))[:repeat])
    return [
        Question(item, dimension, sample)
        for sample in (0, 1)
        for item in items
        if sample == 0 or item.id in again
        for dimension in Dimension
    ]


async def one_score(asks: Asks, question: Question, *, bench: Bench, form: str) -> Row:
    """The row of one score; CallFailed where its request has no answer."""
    item, dimension = question.item, question.dimension
    if bench.judge.is_random:
        drawn = ratings.draw_score(item.record, dimension, question.sample)
        return row_of(question, bench, drawn)
    assert item.reply is not None
    chat = ratings.rating(dimension, item.history, item.seeker, item.reply, item.reference, form)
    name, sample = bench.judge.name, question.sample
    call = ratings.call(item.id, name, Score, chat, sample, brief=bench.is_own, form=form)
    answer = await asks.ask(call)
    said = ratings.read_score(answer.text, form, truncated=answer.truncated)
    return row_of(question, bench, said)


def row_of(question: Question, bench: Bench, said: Score | Unscored | Failure | None) -> Row:
    """The row of an answer or a final failure; ``said`` is None where there is no reply."""
    item = question.item
    told: tuple[float | None, str, str | None, str | None]
    if isinstance(said, Score):
        told = said.score, SCORED, None, said.reason or None
    elif isinstance(said, Unscored):
        told = None, UNSCORED, said.reason.value, said.detail
    elif said is None:
        told = None, NOT_JUDGED, item.lacking, None
    else:
        told = None, *lost(said)
    score, status, reason, explanation = told
    return {
        "id": item.id,
        "quadrant": item.quadrant,
        "side": item.side,
        "dimension": question.dimension.value,
        "sample": question.sample,
        "score": score,
        "status": status,
        "reason": reason,
        "explanation": explanation,
        "judge": bench.name,
    }
