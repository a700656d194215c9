"""The package as installed: light to import, complete, and at one with its metadata."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
import yaml

import hepdask_ml

ROOT = Path(__file__).parents[1]
NEVER = {"cupy", "numba", "pyhf", "scipy", "torch"}
NOT_AT_IMPORT = NEVER | {
    "aiohttp", "dask", "distributed", "matplotlib", "mplhep", "pyarrow", "rich",
}  # fmt: skip


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", requirement)[0] for requirement in requirements}


def imported_by(statement: str) -> set[str]:
    """Top-level packages in the memory of a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def modules() -> list[str]:
    found = pkgutil.walk_packages(hepdask_ml.__path__, "hepdask_ml.")
    return ["hepdask_ml", *(module.name for module in found)]


def test_import_is_light() -> None:
    assert not imported_by("import hepdask_ml") & (NOT_AT_IMPORT | {"numpy"})


def test_command_line_starts_without_plots_and_tables() -> None:
    statement = "from hepdask_ml.ui import cli"
    assert not imported_by(statement) & (NOT_AT_IMPORT - {"rich"})


def test_no_part_of_the_package_needs_an_extra() -> None:
    statement = "; ".join(f"import {name}" for name in modules() if not name.endswith("__main__"))
    assert not imported_by(statement) & NEVER


@pytest.mark.parametrize("name", hepdask_ml.__all__)
def test_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(hepdask_ml, name)
    assert name in dir(hepdask_ml)
    if name == "__version__":
        return
    assert value.__doc__, f"{name} has no docstring"
    assert value.__module__.startswith("hepdask_ml.")
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert f":: hepdask_ml.{name}\n" in page, f"docs/reference/api.md does not show {name}"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hepdask_ml' has no attribute 'uper_limit'"):
        hepdask_ml.uper_limit  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", modules())
def test_module_says_what_lives_in_it(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    page = (ROOT / "docs/reference/modules.md").read_text(encoding="utf-8")
    assert f"automodule:: {name}\n" in page, f"docs/reference/modules.md does not list {name}"


def test_package_is_typed() -> None:
    assert resources.files(hepdask_ml).joinpath("py.typed").is_file()


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.search(r"^## (\d\S*) \((\S+)\)$", changelog, re.MULTILINE)
    assert released
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(citation["version"]), str(citation["date-released"])) == released.groups()
    assert hepdask_ml.__version__ == released[1]
    assert metadata.version("hepdask-ml") == hepdask_ml.__version__
    assert "\n## Unreleased\n" in changelog


def test_extras_are_in_the_table_of_the_install_page() -> None:
    page = (ROOT / "docs/start/install.md").read_text(encoding="utf-8")
    table = {
        row[1]: set(row[2].split(", "))
        for row in re.finditer(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    }
    extras = pyproject()["project"]["optional-dependencies"]
    assert table == {extra: requirement_names(names) for extra, names in extras.items()}


def test_plain_install_is_light() -> None:
    project = pyproject()["project"]
    plain = requirement_names(project["dependencies"])
    heavy = {"gpu", "train", "hpo", "batch", "kubernetes", "gateway", "data", "serve"}
    assert heavy <= set(project["optional-dependencies"])
    assert not plain & (NEVER | {"cupy-cuda12x"})


def test_readme_and_ci_run_the_same_tests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "&& .venv/bin/pytest\n" in readme
    # In two parts, which are all tests together.
    assert '\npytest "${beside[@]}" ' in script
    assert '\nstep pytest "${beside[@]/#/--ignore=}" ' in script
