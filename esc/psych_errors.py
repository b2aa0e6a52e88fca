"""The psychological errors of a support reply (paper, appendix A.2), plus Other and None."""

import re
from enum import StrEnum


class PsychError(StrEnum):
    """An error type; the value is its name in verdicts, files and reports."""

    STRATEGY_MISMATCH = "Strategy Mismatch"
    LACK_OF_EMPATHY = "Lack of Empathy"
    EARLY_EMOTION_SHIFT = "Early Emotion Shift"
    TEMPLATE_RESPONSE = "Template Response"
    EMOTION_MISREAD = "Emotion Misread"
    OTHER = "Other"
    NONE = "None"

    @property
    def definition(self) -> str:
        """One sentence that says when a reply has this error."""
        return _DEFINITIONS[self]

    @property
    def example(self) -> str:
        """What such a reply is like; empty where there is nothing to show."""
        return _EXAMPLES.get(self, "")


_DEFINITIONS: dict[PsychError, str] = {
    PsychError.STRATEGY_MISMATCH: "The strategy does not fit what the seeker feels or needs now.",
    PsychError.LACK_OF_EMPATHY: "The reply passes over the seeker's feelings or stays indifferent.",
    PsychError.EARLY_EMOTION_SHIFT:
        "The reply turns to advice or cheer before the present feeling has been acknowledged.",
    PsychError.TEMPLATE_RESPONSE: "The reply is a stock phrase with nothing of this conversation.",
    PsychError.EMOTION_MISREAD: "The reply assumes a feeling that the seeker does not have.",
    PsychError.OTHER: "The reply has an error of another kind.",
    PsychError.NONE: "The reply has none of these errors.",
}  # fmt: skip

_EXAMPLES: dict[PsychError, str] = {
    PsychError.STRATEGY_MISMATCH:
        "The seeker begs to be told what to do next, and gets one more question about the past.",
    PsychError.LACK_OF_EMPATHY:
        'To "We buried my brother on Sunday" the reply is "Which town do you live in?"',
    PsychError.EARLY_EMOTION_SHIFT:
        'To "I have been crying all night" the reply is "Plan your week, and cheer up!"',
    PsychError.TEMPLATE_RESPONSE:
        '"That sounds difficult. I am here for you.", and not a word on what the seeker told.',
    PsychError.EMOTION_MISREAD:
        "The seeker is relieved that the marriage is over, and the reply mourns it with them.",
}  # fmt: skip

# Judges reorder, shorten, lengthen and replace the names: a label is known by the word stems that
# it must hold, in either order. What fits two types, such as "emotional mismatch", fits none.
_UNFIT = (
    r"(?<!not )(?<!not a )"
    r"\b(?:mismatch|misalign|inappropriate|unsuitable|wrong|incorrect|improper|unfit)"
)
_LACKING = r"\b(?:lack\w*|no|without|missing|absen\w*|insufficient|inadequate|deficit|deficiency)\b"
_EARLY = r"\b(?:early|earlier|premature\w*|too soon|rushed|hasty)\b"
_SHIFT = r"\b(?:shift|transition|switch|advice|advising|suggest|solution|problem solving|reassur)"
_MISTAKEN = r"\bmis(?:underst|perce|identif|judg)"
_FELT = r"\b(?:emotion|feeling|affect)"
_STEMS: dict[PsychError, re.Pattern[str]] = {
    PsychError.STRATEGY_MISMATCH: re.compile(rf"\bstrateg\w* .*{_UNFIT}|{_UNFIT}.*\bstrateg"),
    PsychError.LACK_OF_EMPATHY: re.compile(
        rf"{_LACKING}.*\bempath|\bempath\w* .*{_LACKING}|\b(?:un|non )empath"
    ),
    PsychError.EARLY_EMOTION_SHIFT: re.compile(
        rf"^(?!.*\bstrateg).*(?:{_EARLY}.*{_SHIFT}|{_SHIFT}.*{_EARLY})"
    ),
    PsychError.TEMPLATE_RESPONSE: re.compile(
        r"\btemplate|\b(?:generic|scripted|canned|formulaic|stock) (?:response|repl|phrase|answer)"
    ),
    PsychError.EMOTION_MISREAD: re.compile(
        rf"\bmis(?:read|interpret)|{_FELT}.*{_MISTAKEN}|{_MISTAKEN}.*{_FELT}"
    ),
}
# "No lack of empathy" names an error only to deny it; "no empathy" is the error itself.
_DENIED = re.compile(r"^(no|not|without|never)\b(?! empath)")
_NONE = "none,no error,no errors,no psychological error,no empathy error,n a,na,not applicable"
_WHOLE = {
    **dict.fromkeys(("other", "others", "other error"), PsychError.OTHER),
    **dict.fromkeys(_NONE.split(","), PsychError.NONE),
}

_CLAUSE = re.compile(r"[^\w\s'-]+|\s-+\s|\b(?:but|though|although|however|except)\b")


def _names_error(clause: str) -> bool:
    """Whether a part of a label that begins with none names an error, and not to deny it."""
    key = " ".join(re.findall(r"[a-z]+", clause)).removeprefix("none").strip()
    if _DENIED.match(key):
        return False
    return _WHOLE.get(key) is PsychError.OTHER or any(s.search(key) for s in _STEMS.values())


def parse(text: str) -> PsychError | None:
    """The error that ``text`` names, or None where it names none, denies one, or names several.

    What begins with none is none, unless an error is named all the same.
    """
    key = " ".join(re.findall(r"[a-z]+", text.casefold()))
    if key in _WHOLE:
        return _WHOLE[key]
    if key.startswith("none "):
        return None if any(map(_names_error, _CLAUSE.split(text.casefold()))) else PsychError.NONE
    if _DENIED.match(key):
        return None
    found = [error for error, stems in _STEMS.items() if stems.search(key)]
    return found[0] if len(found) == 1 else None
