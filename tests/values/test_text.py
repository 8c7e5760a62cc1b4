"""What a file names is shown, and steers nothing."""

from __future__ import annotations

import pytest

from mpqc.errors import ModelError
from mpqc.values.text import one_line, printable, printable_lines, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1.weight", "conv1.weight"), ("名 é 🙂", "名 é 🙂"), ("a\x00b", "a\\x00b"), ("\x1b[31m", "\\x1b[31m"), ("\x9b31m", "\\x9b31m"),
        ("\u202egnp", "\\u202egnp"), ("a\nb\tc", "a\\nb\\tc"), ("\udcff.onnx", "\\udcff.onnx"), ("\u2028", "\\u2028"), ("[bold] $x$", "[bold] $x$"),
    ],
)  # fmt: skip
def test_only_what_is_no_visible_character_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable_lines(f"{text.splitlines()[0] if text.splitlines() else ''}\nend").endswith("\nend")


def test_one_line_has_no_end_inside() -> None:
    assert one_line(" a\n  b\r\nc\x07 ") == "a b c\\x07"


def test_long_text_loses_its_middle_and_says_how_much() -> None:
    assert shortened("x" * 100, 100) == "x" * 100
    assert shortened("a" * 50 + "b" * 900 + "c" * 50, 100) == "a" * 50 + " ... 900 characters ... " + "c" * 50


def test_errors_are_one_line_that_can_be_printed_and_keep_what_they_were_told() -> None:
    error = ModelError("is \x1b]0;x\x07", where="y" * 5000, why="one\ntwo", hint="a\x00")
    assert str(error).isprintable()
    assert len(str(error)) < 1400
    assert str(error).endswith(": is \\x1b]0;x\\x07: one two (a\\x00)")
    assert (error.what, error.hint) == ("is \x1b]0;x\x07", "a\x00")


def test_a_message_stays_what_it_is_when_torch_adds_to_the_arguments() -> None:
    error = ModelError("NaN in this tensor", where="relu_4")
    error.args = (f"{error.args[0]}\n\nWhile executing %relu", *error.args[1:])
    assert str(error) == "relu_4: NaN in this tensor"
