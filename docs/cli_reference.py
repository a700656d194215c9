"""Writes ``reference/cli.md`` from the help of the commands: ``python docs/cli_reference.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from hepdask_ml.ui.cli import main

PAGE = Path(__file__).parent / "reference" / "cli.md"
INTRODUCTION = """\
# Command line

The help of each command, as `--help` prints it. The [guide](../guides/cli.md) shows them at work.
"""


def page() -> str:
    """Give the text of the page: one section for the program and each of its commands."""
    named = commands(main, "hepdask-ml")
    return "\n".join([INTRODUCTION, *(section(command, name) for name, command in named)])


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Give a command and, if it is a group, all that are in it, with their full names."""
    yield name, command
    if isinstance(command, click.Group):
        for word in sorted(command.commands):
            yield from commands(command.commands[word], f"{name} {word}")


def section(command: click.Command, name: str) -> str:
    """Give a heading and the help of one command, 88 columns wide."""
    context = click.Context(command, info_name=name, terminal_width=88, max_content_width=88)
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
