"""Values that programs stumble over: names, numbers, and texts of a file's own language."""

from __future__ import annotations

NAMES = (
    "", " ", ".", "..", "/", "../../etc/passwd", "/etc/passwd", "a/b", "CON", "nul", "con.npy", "-rf", "--help", "~", "$HOME", "`id`",
    "%s%n", "{0}", "{{x}}", "[bold]", "[/]", "[/bold]", "[red]x[/red]", "[link=file:///etc/passwd]x[/link]", ":smile:", "$x$",
    "$\\frac{1}{0", "\\input{x}", "_^_", "a_b^c", "\x00", "a\x00b", "\n", "a\nb", "\r", "\t", "\x1b[31m", "\x1b]0;title\x07", "\x07",
    "\x7f", "\x9b31m", "\u202e", "\u2028", "\ufeff", "\ud7ff", "é", "é", "🙂", "名", "x" * 260, "名" * 260, "<script>alert(1)</script>",
    "&amp;", '"', "'", "\\", "\\u0000", "=", "a=8", "a,b", "*", "?", "|", "#", "None", "nan", "true", "0", "__class__", "__proto__", "self",
    "class", "labels", "x", "model.so",
)  # fmt: skip
"""Names of tensors, nodes, inputs and files that mean something to a shell, a terminal, a path, HTML, TeX or markup."""

INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, -128, -129, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 32, 1 << 40)
WIDE = (*INTEGERS, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 10**40)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-38, 1e38, 3.5e38, -1e38, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))
NUMBERS = (
    "0", "-0", "1", "-1", "0.5", "1e999", "-1e999", "1e-999", "nan", "NaN", "inf", "Infinity", "-Infinity", "1_000", "0x10", "0b1", "07",
    "1.", ".5", "+1", "1e", "9" * 30, "9" * 5000, "2147483648", "-2147483649", "9223372036854775808", "true", "null", "",
)  # fmt: skip
"""What may stand where a text has a number."""
