"""One message of a chat, and what keeps its words from being more than words."""

import re
from dataclasses import dataclass

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
