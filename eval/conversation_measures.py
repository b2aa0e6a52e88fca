"""What simulated conversations come to: relief, how they end, strategies, repetition, length.

Relief is how strong the seeker's feeling is at its first words less at its last, on a scale of 1 to
5. Every number is a mean or a share over cards, each of which stands for itself; two systems are
compared on the cards that both were measured on, and under the same seeker, seed and length. A
conversation whose last answer cannot be read has no relief, and is counted.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

from esc import files, languages
from esc.dialogue import INTERVALS, interval
from esc.files import Row
from esc.seeker import EASED
from esc.stats import FEWEST, mean, share, verdict
from esc.strategies import HASH, Strategy
from eval.text_metrics import words

CONVERSATIONS, MEASURES, COMPARED = "conversations.jsonl", "measures.json", "compared.json"
RATINGS, SUMMARY = "ratings.jsonl", "ratings.json"
"""What `eval.rate` says of each, and of all, in ``judge/``."""
SECOND = "seeker2"
"""Folder, within a system's, of the conversations with another seeker."""
CONTROL = "template"
"""The system whose words say nothing: a seeker that can tell anything feels the difference."""
ENDED = {
    "done": "the seeker ended it",
    "turns": "the most replies were reached",
    "too long": "the context of a model was full",
    "silent": "the system had no words",
    "unreadable": "an answer of the seeker could not be read",
    "refused": "a request was refused for good",
}
"""How a conversation ends, in words; the last two have no relief, nor one without a reply."""
_UNMEASURED = ("unreadable", "refused")


def felt(row: Row) -> list[int]:
    """How strong the feeling is, from the first words to the last; empty of one without relief."""
    if row["status"] != "ok" or row["ended"] in _UNMEASURED or not row["turns"]:
        return []
    told = [one["intensity"] for one in row["turns"]]
    return told + ([row["last"]["intensity"]] if row["last"] else [])


Values = dict[str, dict[str, float]]
"""Of each number, card to what it is of its conversation."""
SHARES = ("eased", "dropped_out")
"""Numbers that are 0 or 1 of one conversation."""


def by_card(rows: Sequence[Row]) -> Values:
    """Every number of every conversation that has it."""
    found: Values = {}

    def note(name: str, card: str, value: float) -> None:
        found.setdefault(name, {})[card] = value

    said = {row["id"]: [one["reply"] for one in row.get("turns", ())] for row in rows}
    language = languages.detect(reply for replies in said.values() for reply in replies)
    for row in rows:
        card, replies = row["id"], said[row["id"]]
        if told := felt(row):
            left = row["ended"] == "done" and told[-1] > EASED
            note("relief", card, told[0] - told[-1])
            note("initial", card, told[0])
            note("final", card, told[-1])
            note("eased", card, told[-1] <= EASED)
            note("dropped_out", card, left)
            if min(told) <= EASED:
                until = next(place for place, one in enumerate(told) if one <= EASED)
                note("replies_until_eased", card, until)
        if replies:
            cut = [words(one, language) for one in replies]
            pairs = [pair for one in cut for pair in pairwise(one)]
            again = [one in cut[:place] for place, one in enumerate(cut)]
            note("replies", card, len(cut))
            note("words", card, sum(map(len, cut)) / len(cut))
            note("repeated", card, 100 * sum(again) / len(again))
            if pairs:
                note("distinct2", card, 100 * len(set(pairs)) / len(pairs))
    return found


NUMBERS = (
    *("relief", "initial", "final", "eased", "dropped_out", "replies_until_eased"),
    *("replies", "words", "distinct2", "repeated"),
)
"""All that `by_card` may find: points of the scale, 0 or 1, counts, words a reply, per cent."""


def measured(rows: Sequence[Row]) -> Row:
    """The numbers of one system's conversations; a share is 0 to 1."""
    found, ended = by_card(rows), Counter(row.get("ended") for row in rows)
    return {
        "list": HASH,
        "conversations": len(rows),
        "truncated": sum(turn["truncated"] for row in rows for turn in row.get("turns", ())),
        "failed": sum(row["status"] == "failed" for row in rows),
        "ended": {name: ended[name] for name in ENDED},
        "n": len(found.get("relief", ())),
        "numbers": {name: _number(name, found.get(name, {})) for name in NUMBERS},
        "course": _course(rows),
        "human": _people([row["card"] for row in rows]),
    }


def _number(name: str, values: Mapping[str, float]) -> Row:
    return _share(map(bool, values.values())) if name in SHARES else _mean(values)


def _mean(values: Mapping[str, float]) -> Row:
    return mean([(card, float(one)) for card, one in values.items()], "card")


def _share(held: Iterable[bool]) -> Row:
    """Of cards, each of which stands for itself."""
    n = [*held]
    return share(Counter((int(one), 1) for one in n), "card") | {"n": len(n)}


def _course(rows: Iterable[Row]) -> list[dict[str, float]]:
    """Shares of the strategies in each interval of a conversation, as Figure 8 has them of gold."""
    counts = [Counter[str]() for _ in INTERVALS]
    for row in rows:
        turns = row.get("turns", ())
        for place, one in enumerate(turns):
            if one["strategy"]:
                counts[interval(place, len(turns))][one["strategy"]] += 1
    return [{s.value: one[s] / (one.total() or 1) for s in Strategy} for one in counts]


def _people(cards: Iterable[Row]) -> Row | None:
    """What the people said whose dialogues the cards are of; None where nobody was asked."""
    told = {
        one["id"]: (one["intensity"], one["after"])
        for one in cards
        if one.get("intensity") and one.get("after")
    }
    if not told:
        return None
    return {
        "n": len(told),
        "relief": _mean({card: before - after for card, (before, after) in told.items()}),
        "initial": _mean({card: before for card, (before, _) in told.items()}),
        "final": _mean({card: after for card, (_, after) in told.items()}),
        "eased": _share(after <= EASED for _, after in told.values()),
    }


def paired(a: Values, b: Values) -> Row:
    """What b has more than a of each number on the cards where both have it; shares in per cent."""
    found = {}
    for name in [name for name in a if name in b]:
        shared = sorted(a[name].keys() & b[name].keys())
        unit = 100 if name in SHARES else 1
        told = _mean(
            {card: unit * (float(b[name][card]) - float(a[name][card])) for card in shared}
        )
        difference = told.pop("value")
        said = verdict(difference, told["low"], told["high"])
        found[name] = told | {"difference": difference, "verdict": said}
    return found


def compared(folder: Path) -> Row:
    """What ``compared.json`` says of the systems in a folder: pairs, and a second seeker."""
    read = {one.parent.name: _read(one.parent) for one in sorted(folder.glob(f"*/{MEASURES}"))}
    pairs, left_out = [], []
    # The control first: what every other one is held against.
    for a, b in combinations(sorted(read, key=lambda name: (name != CONTROL, name)), 2):
        (one, first), (other, second), both = read[a], read[b], {"a": a, "b": b}
        if apart := files.differences(one["under"], other["under"]):
            left_out.append(both | {"reason": "; ".join(apart)})
        else:
            pairs.append(both | {"numbers": paired(first, second)})
    smoke = any(told["smoke"] for told, _ in read.values())
    about: Row = {"pairs": pairs, "left_out": left_out, "seekers": _seekers(folder, read)}
    return about | {"tells": tells(pairs, read), "smoke": smoke}


def current(folder: Path) -> bool:
    """Whether a judge's ratings in ``judge/`` are of the conversations that are there."""
    rated = files.read_json(folder / "judge" / SUMMARY, default={})
    return bool(rated) and rated["of"] == files.sha256(folder / CONVERSATIONS)


def _read(folder: Path) -> tuple[Row, Values]:
    """What ``measures.json`` says, and all numbers by card, a judge's among them."""
    told = files.read_json(folder / MEASURES)
    found = by_card(list(files.read_jsonl(folder / CONVERSATIONS)))
    for row in files.read_jsonl(folder / "judge" / RATINGS) if current(folder) else ():
        for name, value in row.items():
            if isinstance(value, int | float):
                found.setdefault(f"{name}, judged by {row['judge']}", {})[row["id"]] = value
    return told, found


def tells(pairs: Iterable[Row], systems: Container[str]) -> Row:
    """Whether the seeker tells any of the systems from the control, and how that is said."""
    beside = {one["b"]: one["numbers"] for one in pairs if one["a"] == CONTROL}
    against = {name: one["relief"] for name, one in beside.items() if "relief" in one}
    above = [name for name, one in against.items() if (one["low"] or 0) > 0]
    few = max((one["n"] for one in against.values()), default=0) < FEWEST
    unknown = "Whether this seeker can tell anything is not known: "
    if CONTROL not in systems:
        said = f"{unknown}it takes the control ({CONTROL}) among SYSTEMS."
    elif not beside:
        said = f"{unknown}no system talked with the same seeker on the same cards as the control."
    elif not against:
        said = f"{unknown}no conversation can be measured beside the control's."
    elif few:
        said = (
            f"Fewer than {FEWEST} cards: no intervals, and no word on whether this seeker tells a "
            "system from empty sentences."
        )
    elif above:
        said = f"This seeker tells from empty sentences: {', '.join(above)}."
    else:
        said = (
            "These numbers separate nothing: under this seeker no system eases more than empty "
            "sentences do."
        )
    return {"separates": bool(above) if against and not few else None, "said": said}


def _seekers(folder: Path, read: Mapping[str, tuple[Row, Values]]) -> Row | None:
    """How far a second seeker agrees: on the order of the systems, and by card (Spearman).

    Over the systems and cards that both have measured, under the same but for who plays.
    """
    from scipy.stats import spearmanr

    both: list[dict[str, dict[str, float]]] = [{}, {}]
    for name, (told, found) in read.items():
        if (folder / name / SECOND / MEASURES).is_file():
            again, second = _read(folder / name / SECOND)
            if {**told["under"], "SEEKER": ""} == {**again["under"], "SEEKER": ""}:
                both[0][name], both[1][name] = found.get("relief", {}), second.get("relief", {})
    every = [cards.keys() for of in both for cards in of.values()]
    shared = sorted(set.intersection(*map(set, every))) if every else []
    if not shared:
        return None
    means = [{name: sum(of[name][c] for c in shared) for name in of} for of in both]
    orders = [sorted(of, key=lambda name: (-of[name], name)) for of in means]
    by = [[sum(cards[c] for cards in of.values()) for c in shared] for of in both]
    # Ranks take values that differ.
    varied = len(shared) > 2 and all(len({*one}) > 1 for one in by)
    rho = float(spearmanr(*by).statistic) if varied else None
    same = orders[0] == orders[1]
    return {"orders": orders, "same_order": same, "spearman": rho, "n": len(shared)}
