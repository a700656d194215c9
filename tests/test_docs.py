"""The documentation tells the truth: its code runs, and its lists are complete."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import matplotlib as mpl
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from hepdask_ml import FitStatus
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences(page: Path, language: str) -> list[Token]:
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [token for token in tokens if token.type == "fence" and token.info == language]


def pages_with(*languages: str) -> list[str]:
    return [
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(fences(page, language) for language in languages)
    ]


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which somebody follows the documentation: the examples are at hand."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize("name", pages_with("python", "pycon"))
def test_python_of_the_page_runs(name: str) -> None:
    page = ROOT / name
    names: dict[str, object] = {"__name__": "__main__"}
    with mpl.rc_context({"backend": "agg"}):
        for token in sorted(fences(page, "python") + fences(page, "pycon"), key=first_line):
            if token.info == "python":
                # Blank lines in front, so that a traceback shows the line of the page.
                source = "\n" * first_line(token) + token.content
                exec(compile(source, str(page), "exec"), names)
            else:
                run_session(token, page, names)


def run_session(token: Token, page: Path, names: dict[str, object]) -> None:
    example = doctest.DocTestParser().get_doctest(
        token.content, names, page.name, str(page), first_line(token)
    )
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False
    )
    report: list[str] = []
    runner.run(example, out=report.append, clear_globs=False)
    names.update(example.globs)
    assert not runner.failures, "".join(report)


def first_line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize("name", pages_with("console"))
def test_commands_of_the_page_run(name: str) -> None:
    for token in fences(ROOT / name, "console"):
        for command, expected in commands(token.content):
            program, *arguments = shlex.split(command, comments=True)
            assert program == "hepdask-ml", f"a console block of {name} runs {program}"
            result = CliRunner().invoke(main, arguments, catch_exceptions=False)
            assert result.exit_code == 0, result.output
            shown = " ".join(result.output.split())
            missing = [line for line in expected if " ".join(line.split()) not in shown]
            assert not missing, f"{command} no longer prints {missing}, but\n{result.output}"


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, with the lines that it is shown to print."""
    for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, *output = part.splitlines()
        yield command, [line for line in output if line.strip() not in {"", "..."}]


def cli_reference() -> Any:
    """The module that writes the page of the command line."""
    location = ROOT / "docs" / "cli_reference.py"
    spec = importlib.util.spec_from_file_location("cli_reference", location)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = dict(cli_reference().commands(main, "hepdask-ml"))


def test_command_line_page_is_the_help() -> None:
    module = cli_reference()
    written = module.PAGE.read_text(encoding="utf-8")
    assert written.split() == module.page().split(), "run python docs/cli_reference.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_its_options_have_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert all(option.help for option in options)
    guide = (ROOT / "docs" / "guides" / "cli.md").read_text(encoding="utf-8")
    assert name in guide


def test_every_fit_status_is_explained() -> None:
    page = (ROOT / "docs" / "explain" / "fits.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == {status.name: status.sentence for status in FitStatus}


def test_glossary_is_sorted() -> None:
    page = (ROOT / "docs" / "explain" / "glossary.md").read_text(encoding="utf-8")
    for section in page.split("\n## ")[1:]:
        terms = re.findall(r"^(\S.*)\n: ", section, re.MULTILINE)
        assert terms == sorted(terms, key=str.casefold)
