"""Names and messages as text for people: what a file holds is data, and steers neither a terminal nor a page."""

from __future__ import annotations

MOST = 1200
"""Characters of one part of a message: a name or a path fits, a whole file does not"""


def printable(text: object) -> str:
    """`text` with all that is no visible character or space (control characters, line ends, marks of direction) escaped as Python does."""
    return "".join(character if character.isprintable() else _escaped(character) for character in str(text))


def printable_lines(text: str) -> str:
    """`text` line by line as `printable` shows it."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str, most: int = MOST) -> str:
    """`text` without its middle where it has more than `most` characters; how many are gone stands there."""
    if len(text) <= most:
        return text
    kept = most // 2
    return f"{text[:kept]} ... {len(text) - 2 * kept} characters ... {text[-kept:]}"


def one_line(text: object) -> str:
    """`text` in one line: white space is one space each, and the rest as `printable` shows it."""
    return printable(" ".join(str(text).split()))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
