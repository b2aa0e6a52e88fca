"""One message of a chat, and what keeps its words from being more than words."""

import re
from dataclasses import dataclass
from typing import Any

# What looks like a model's own control token: in a text it would end the turn it stands in.
_CONTROL = re.compile(r"<(?=[|｜][^<>\n]{1,40}[|｜]>|/?[a-z][a-z_]{0,40}>)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str

    def wire(self) -> dict[str, str]:
        """The message as it is sent: words of people and models cannot pose as control tokens."""
        text = self.content if self.role == "system" else _CONTROL.sub("< ", self.content)
        return {"role": self.role, "content": text}


def text_of(content: Any) -> str | None:
    """The text of an answer's content, which may be a list of parts; None where it has none."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [one if isinstance(one, str) else one.get("text") for one in content]
    return "".join(part for part in parts if isinstance(part, str)) if parts else None
