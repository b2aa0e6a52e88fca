"""Text of a corpus, a model or a server where people see it: nothing in it works on the reader.

Data files keep such text as it is; terminals, pages, sheets and Markdown show it like this.
"""

import re
from pathlib import Path

# Control characters but tab and line break, the embeddings, overrides and isolates of the
# bidirectional algorithm (UAX 9), and halves of surrogate pairs, which no encoding can write.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def visible(text: str) -> str:
    r"""The text with what steers a terminal or turns the reading order written out: ``\x1b``."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def plain(text: str) -> str:
    """The text as one line without any markup."""
    line = re.sub(r"([\\`*_\[\]<>&|~#$!])", r"\\\1", " ".join(visible(text).split()))
    # GitHub makes links of bare addresses.
    return line.replace("://", ":&#8203;//").replace("www.", "www&#8203;.")


def code(text: str) -> str:
    """The text as inline code, fenced so that no backtick in it ends it."""
    text = visible(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


class Markdown(str):
    """Text that is Markdown already, and is put out as it is."""


def markdown(template: Path, **variables: object) -> str:
    """A Markdown file from a template: whatever it puts out is one line without any markup.

    But for `Markdown`, which the filters ``code`` (inline code) and ``markdown`` (our own) make.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda one: one if isinstance(one, Markdown) else plain(str(one)),
    )
    # Here: the lists of a user are read when this is loaded, after the command line.
    from esc.strategies import CONVERSATION

    environment.globals["setting"] = CONVERSATION
    environment.filters["code"] = lambda one: Markdown(code(str(one)))
    environment.filters["markdown"] = Markdown
    return environment.get_template(template.name).render(variables)
