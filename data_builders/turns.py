"""From utterances to turns: the paper's rules, and two other ways with runs of the supporter.

1. consecutive seeker utterances are joined with a line break;
2. every supporter utterance is its own turn, with its own strategy;
3. between two consecutive supporter utterances stands a seeker turn of one blank;
4. a dialogue that the supporter opens gets a first seeker turn ``Hi``;
5. seeker utterances after the last supporter turn are dropped;
6. white space inside an utterance stays, its ends are stripped (as it is read: `esconv`).
"""

from collections.abc import Iterator
from itertools import groupby

from esc.dialogue import Dialogue, Role, Turn, Utterance

BLANK = " "
OPENER = "Hi"
CONSECUTIVE = ("separate", "merge-same", "merge")
"""What becomes of consecutive supporter utterances. ``separate`` is the paper's way (rules 2, 3);
``merge-same`` joins neighbours of one strategy, ``merge`` the run under its first strategy."""


def turns(dialogue: Dialogue, *, consecutive: str = "separate") -> list[Turn]:
    """The turns of a dialogue, oldest first; never empty, since a dialogue has a supporter."""
    result: list[Turn] = []
    said = OPENER
    for role, run in groupby(dialogue.utterances, key=lambda utterance: utterance.role):
        if role is Role.SEEKER:
            said = "\n".join(utterance.text for utterance in run)
            continue
        for reply in _replies(list(run), consecutive):
            assert reply.strategy is not None
            result.append(Turn(f"{dialogue.id}-{len(result)}", said, reply.strategy, reply.text))
            said = BLANK
    return result


def _replies(run: list[Utterance], consecutive: str) -> Iterator[Utterance]:
    if consecutive == "separate":
        yield from run
        return
    # A constant key makes one group of the whole run.
    key = (lambda reply: reply.strategy) if consecutive == "merge-same" else (lambda reply: None)
    for _, group in groupby(run, key=key):
        replies = list(group)
        text = "\n".join(reply.text for reply in replies)
        yield Utterance(Role.SUPPORTER, text, replies[0].strategy)
