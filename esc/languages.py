"""Scripts whose words no blank divides, and the tokenizer that the text metrics take for them."""

import re
from collections.abc import Iterable
from typing import Literal

Language = Literal["en", "zh", "char", "ja-mecab"]
"""How a text is cut: as English words, or by sacreBLEU's tokenizer of that name."""

_HAN, _KANA = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", r"\u3040-\u30ff"
# Thai, Lao, Myanmar and Khmer.
_OTHERS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_BLANKLESS = re.compile(f"[{_HAN}{_KANA}{_OTHERS}]")
_LETTER = re.compile(r"[^\W\d_]")


def is_blankless(text: str) -> bool:
    """Whether most letters of the text are of such a script."""
    return 2 * len(_BLANKLESS.findall(text)) > len(_LETTER.findall(text))


def detect(texts: Iterable[str]) -> Language:
    """The tokenizer for what the texts are written in, together."""
    text = "\n".join(texts)
    if not is_blankless(text):
        return "en"
    return "char" if re.search(f"[{_KANA}{_OTHERS}]", text) else "zh"
