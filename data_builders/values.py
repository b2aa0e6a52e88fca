"""The values in a corpus file, one after the other: elements of a JSON array, or JSON lines.

No more of a file is held than a window of some 256 Ki characters and one value. Every value is
read by the standard library's decoder, as if the file were read whole. (ijson makes a question mark
of half a surrogate pair, so that a broken corpus would pass for a whole one.)
"""

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from esc.exceptions import CorpusError

WINDOW = 1 << 18
"""Characters that are read at a time."""
LONGEST = 1 << 24
"""Characters of a dialogue; what is no whole value or line by then is broken."""
_BLANKS = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def values(path: Path) -> Iterator[Any]:
    """The elements of the JSON array in ``path``, or the values of its lines.

    Raises CorpusError, when it comes to it, with the line where the file is neither.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            window = _Window(stream, path)
            if window.next() == "[":
                yield from window.elements()
                return
            stream.seek(0)
            yield from _lines(stream, path)
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {_first_bad_byte(path)}") from error
    except RecursionError:
        raise CorpusError(f"{path} is nested too deeply to be a corpus") from None


class _Window:
    """The part of a text that is being read; what was read before it is forgotten."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._text, self._at = "", 0
        self._line = self._column = 1
        """Of the window's first character."""

    def elements(self) -> Iterator[Any]:
        """The elements of the array whose bracket is next."""
        self._at += 1
        number, mark = 0, self.next()
        while mark != "]":
            yield self._value(number)
            number, mark = number + 1, self.next()
            if mark == ",":
                self._at += 1
                self.next()
            elif mark != "]":
                raise self._fault(number, "Expecting ',' delimiter", self._at)
        self._at += 1
        if self.next():
            raise self._fault(number, "Extra data", self._at)

    def next(self) -> str:
        """The next character that is no blank; empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self, number: int) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Broken, or cut by the window's end: with more of the file one sees which.
                if len(self._text) - self._at > LONGEST or not self._more():
                    raise self._fault(number, error.msg, error.pos) from error
            except ValueError as error:
                # Its decimal point may be still to come: a fraction has no limit.
                if len(self._text) - self._at > LONGEST or not self._more():
                    raise self._fault(number, _too_many_digits(error), self._at) from error
            else:
                # A number that the window's end cuts may pass for a shorter one: 1, of 1.5 or 1e+5.
                if end + 2 < len(self._text) or not self._more():
                    self._at = end
                    return value

    def _more(self) -> bool:
        """Move on, keeping what is not yet read; False at the end of the file."""
        # Twice as much each time, so that a long value is not begun again and again.
        fresh = self._stream.read(max(WINDOW, len(self._text) - self._at))
        if not fresh:
            return False
        self._line, self._column = self._place(self._at)
        self._text, self._at = self._text[self._at :] + fresh, 0
        return True

    def _place(self, at: int) -> tuple[int, int]:
        """(line, column) of a place in the window, from 1."""
        lines = self._text.count("\n", 0, at)
        if not lines:
            return self._line, self._column + at
        return self._line + lines, at - self._text.rfind("\n", 0, at)

    def _fault(self, number: int, what: str, at: int) -> CorpusError:
        return _broken(self._path, *self._place(at), number, what)


def _lines(stream: TextIO, path: Path) -> Iterator[Any]:
    number = 0
    # A text stream knows no line separator beyond those of JSON: a string may hold the others.
    for line, text in enumerate(iter(partial(stream.readline, LONGEST + 1), ""), start=1):
        if len(text) > LONGEST and not text.endswith("\n"):
            raise _broken(path, line, LONGEST, number, "a line too long for a dialogue")
        if not text.strip():
            continue
        try:
            yield json.loads(text.rstrip("\n"))
        except json.JSONDecodeError as error:
            raise _broken(path, line, error.colno, number, error.msg) from error
        except ValueError as error:
            raise _broken(path, line, 1, number, _too_many_digits(error)) from error
        number += 1


def _too_many_digits(error: ValueError) -> str:
    """What is wrong with an integer that Python refuses, without its advice to programmers."""
    return str(error).partition(" for integer")[0]


def _broken(path: Path, line: int, column: int, number: int, what: str) -> CorpusError:
    return CorpusError(
        f"{path} is neither a JSON array nor JSON lines, or is incomplete "
        f"(line {line}, column {column}, after {number:,} dialogues: {what})"
    )


def _first_bad_byte(path: Path) -> int:
    """The place of the first byte that is not UTF-8."""
    decoder, read = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as stream:
        while part := stream.read(WINDOW):
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(part)
            except UnicodeDecodeError as error:
                return read - kept + error.start
            read += len(part)
    # The last character is cut.
    return read - len(decoder.getstate()[0])
