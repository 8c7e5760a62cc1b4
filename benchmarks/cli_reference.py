"""docs/reference/cli.md: the help of every command as it is printed. `make docs` runs it.

python benchmarks/cli_reference.py
"""

from __future__ import annotations

import sys

from provenance import REPO

PAGE = REPO / "docs" / "reference" / "cli.md"
GROUPS = {"targets": ("list", "show", "check")}
"""Commands that have commands of their own"""


def page() -> str:
    """Markdown: what mpqc itself says, then each command."""
    from mpqc.cli.app import app

    names = [command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands]
    commands = [(name,) for name in names] + [(group, name) for group, inner in GROUPS.items() for name in inner]
    parts = ["# Command line", "What each command prints for `--help`.", _block(())]
    for command in commands:
        parts += [f"## mpqc {' '.join(command)}", _block(command)]
    return "\n\n".join(parts) + "\n"


def _block(command: tuple[str, ...]) -> str:
    text = "\n".join(line.rstrip() for line in _help(command).strip().splitlines())
    return f"```text\n{text}\n```"


def _help(command: tuple[str, ...]) -> str:
    from typer.testing import CliRunner

    from mpqc.cli.app import app

    done = CliRunner().invoke(app, [*command, "--help"], prog_name="mpqc", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
    if done.exit_code:
        sys.exit(f"mpqc {' '.join(command)} --help ends with {done.exit_code}: {done.output}")
    return done.output


def main() -> None:
    """Writes the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
