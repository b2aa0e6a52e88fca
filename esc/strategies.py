"""The eight support strategies of ESConv, in the paper's order (appendix A.4, Table 6)."""

import re
from enum import StrEnum


class Strategy(StrEnum):
    """A support strategy; the value is the label as it stands in the corpus and in every file."""

    QUESTION = "Question"
    RESTATEMENT = "Restatement or Paraphrasing"
    REFLECTION = "Reflection of feelings"
    SELF_DISCLOSURE = "Self-disclosure"
    AFFIRMATION = "Affirmation and Reassurance"
    SUGGESTIONS = "Providing Suggestions"
    INFORMATION = "Information"
    OTHERS = "Others"

    @property
    def code(self) -> str:
        """The two-letter form of the paper, such as ``Qu``."""
        return _ABOUT[self][0]

    @property
    def definition(self) -> str:
        """One sentence that says what a supporter does under this strategy."""
        return _ABOUT[self][1]


UNREADABLE = Strategy.OTHERS
"""What an answer counts as that names no strategy, where a number has to count it."""

# Definitions after Hill's Helping Skills Theory, in this project's wording.
_ABOUT: dict[Strategy, tuple[str, str]] = {
    Strategy.QUESTION: ("Qu",
        "Ask about the problem, openly where possible, so that the seeker can put it into words."),
    Strategy.RESTATEMENT: ("RP",
        "Say back briefly, in other words, what the seeker has told, so that it becomes clearer."),
    Strategy.REFLECTION: ("RF",
        "Name the feeling behind what the seeker says and show that it is understood."),
    Strategy.SELF_DISCLOSURE: ("Sd",
        "Share a similar experience or feeling of your own to show that the seeker is not alone."),
    Strategy.AFFIRMATION: ("AR",
        "Point out the seeker's strengths and efforts, and give hope and encouragement."),
    Strategy.SUGGESTIONS: ("PS",
        "Offer something the seeker could try, as an idea and never as an order."),
    Strategy.INFORMATION: ("In",
        "Give useful facts, resources or answers that bear on the seeker's situation."),
    Strategy.OTHERS: ("Ot",
        "Greet, thank, take leave, or support in a way that none of the others describes."),
}  # fmt: skip

# Other names in use: the labels of FailedESConv, singulars and plurals, short forms.
_ALIASES: dict[str, Strategy] = {
    "questions": Strategy.QUESTION,
    **dict.fromkeys(("restatement", "paraphrasing"), Strategy.RESTATEMENT),
    **dict.fromkeys(("reflection", "reflection of feeling"), Strategy.REFLECTION),
    "self disclosures": Strategy.SELF_DISCLOSURE,
    **dict.fromkeys(("affirmation", "reassurance", "approval and reassurance"),
        Strategy.AFFIRMATION),
    **dict.fromkeys(("suggestion", "suggestions", "provide suggestions", "providing suggestion",
        "direct guidance"), Strategy.SUGGESTIONS),
    "providing information": Strategy.INFORMATION,
    "other": Strategy.OTHERS,
}  # fmt: skip


def _key(text: str) -> str:
    # "Affirmation & Reassurance", "Restatement/Paraphrasing": what joins two words is no word.
    words = re.findall(r"[a-z0-9]+", text.casefold())
    return " ".join(word for word in words if word not in ("and", "or"))


_NAMES: dict[str, Strategy] = (
    {_key(s): s for s in Strategy}
    | {_key(s.code): s for s in Strategy}
    | {_key(name): s for name, s in _ALIASES.items()}
)
_LABEL = re.compile(r"\A\W*(?:the\s+)?(?:\w+\s+)?(?:strategy|answer)\W*(?::|\bis\b)", re.I)
"""What an answer may put before the name, as in ``Strategy: Question``."""
_BRACKET = re.compile(r"\[(.*?)\]")
_WITH_BRACKETS = re.compile(r"\[((?:[^\[\]\n]|\[[^\[\]\n]*\])*)\]")


def parse(text: str) -> Strategy | None:
    """The strategy that ``text`` names, or None.

    Case, brackets, punctuation and what joins two words (``&``, ``/``, "or") do not matter; aliases
    are read, and a label before the name (``Strategy:``) is passed over.
    """
    return _NAMES.get(_key(text)) or _NAMES.get(_key(_LABEL.sub("", text, count=1)))


def tag(strategy: Strategy, response: str) -> str:
    """The entangled form of a reply, ``[Strategy] response``."""
    return f"[{strategy}] {response}"


def strip_tag(text: str) -> tuple[Strategy | None, str]:
    """(strategy, response) of an entangled reply, as the authors' code reads it.

    The first bracket is its tag, wherever it stands and whatever it says; one that holds a whole
    known name with brackets of its own is one. Without any the text is the response.
    """
    bracket = _BRACKET.search(text)
    if bracket is None:
        return None, text
    whole = _WITH_BRACKETS.match(text, bracket.start())
    if whole and parse(whole[1]):
        bracket = whole
    before, after = text[: bracket.start()].rstrip(" \t"), text[bracket.end() :].lstrip(" \t")
    if not before.strip():
        return parse(bracket[1]), after
    apart = "" if before.endswith("\n") or after.startswith("\n") or not after else " "
    return parse(bracket[1]), f"{before}{apart}{after}"


def untagged(text: str) -> str:
    """A text without its tag; whole where its first bracket names no strategy, as people's do."""
    strategy, response = strip_tag(text)
    return text if strategy is None else response
