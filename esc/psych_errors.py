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


_DEFINITIONS: dict[PsychError, str] = {
    PsychError.STRATEGY_MISMATCH: "The strategy does not fit what the seeker feels or needs now.",
    PsychError.LACK_OF_EMPATHY: "The reply passes over the seeker's feelings or stays indifferent.",
    PsychError.EARLY_EMOTION_SHIFT: (
        "The reply turns to advice or cheer before the present feeling has been acknowledged."
    ),
    PsychError.TEMPLATE_RESPONSE: "The reply is a stock phrase with nothing of this conversation.",
    PsychError.EMOTION_MISREAD: "The reply assumes a feeling that the seeker does not have.",
    PsychError.OTHER: "The reply has an error of another kind.",
    PsychError.NONE: "The reply has none of these errors.",
}

# Judges reorder, shorten and lengthen the names: a label is known by the word stems it must hold.
_STEMS: dict[PsychError, re.Pattern[str]] = {
    PsychError.STRATEGY_MISMATCH: re.compile(r"strateg\w* .*\bmismatch|\bmismatch\w* .*strateg"),
    PsychError.LACK_OF_EMPATHY: re.compile(r"\b(lack\w*|no|without|missing)\b.*\bempath"),
    PsychError.EARLY_EMOTION_SHIFT: re.compile(
        r"\b(early|premature)\b.*\bshift|\bemotion\w* shift\w* (too )?(early|premature)"
    ),
    PsychError.TEMPLATE_RESPONSE: re.compile(r"\btemplate"),
    PsychError.EMOTION_MISREAD: re.compile(r"\bmis(read|interpret)\w*|\bemotion\w* .*\bmisread"),
}
# "No lack of empathy" names an error only to deny it; "no empathy" is the error itself.
_DENIED = re.compile(r"^(no|not|without|never)\b(?! empath)")
_WHOLE: dict[str, PsychError] = {
    "other": PsychError.OTHER,
    "others": PsychError.OTHER,
    "other error": PsychError.OTHER,
    "none": PsychError.NONE,
    "no error": PsychError.NONE,
    "no errors": PsychError.NONE,
    "no psychological error": PsychError.NONE,
    "no empathy error": PsychError.NONE,
    "n a": PsychError.NONE,
    "na": PsychError.NONE,
    "not applicable": PsychError.NONE,
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

    Case, punctuation, word order and additions do not matter (``Mismatched Strategy``). What begins
    with none is none, unless an error is named all the same.
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
