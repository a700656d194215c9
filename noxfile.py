"""All that CI asks, one session each: ``nox`` runs the default ones, ``nox -l`` lists all."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "arch", "docs", "tests"]
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
LINT = nox.project.dependency_groups(PYPROJECT, "lint")
PYTHONS = nox.project.python_versions(PYPROJECT)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and spelling."""
    session.install(*LINT)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Types, mypy strict."""
    session.install("-e.[test,docs]", *LINT)
    session.run("mypy", *session.posargs)


@nox.session
def arch(session: nox.Session) -> None:
    """Layers and doors: who may import what."""
    session.install("-e.", *LINT)
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a warning is an error."""
    session.install("-e.[docs]")
    session.run("sphinx-build", "-W", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session
def links(session: nox.Session) -> None:
    """Check that the outside links of the documentation answer."""
    session.install("-e.[docs]")
    session.run("sphinx-build", "-W", "-q", "-b", "linkcheck", "docs", "docs/_build/links")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, doctests and the code of the documentation: ``nox -s tests -- -k limit``."""
    session.install("-e.[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run the tests on each Python that is supported and installed."""
    session.install("-e.[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that pyproject.toml allows."""
    session.install("--resolution=lowest-direct", "-e.[test]")
    # What old libraries call deprecated in each other is no fault of this package.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, and ask the installed wheel for its version."""
    session.install("build")
    dist = Path(session.create_tmp(), "dist")
    session.run("python", "-m", "build", "--outdir", str(dist), ".")
    session.install(str(next(dist.glob("*.whl"))))
    session.run("hepdask-ml", "--version")


@nox.session
def slurm(session: nox.Session) -> None:
    """Install Slurm and Grid Engine (Debian, root), and run campaigns on them, on loopback."""
    session.install("-e.[test]")
    for system in ("slurm", "sge"):
        session.run(f"tests/batch/{system}.sh", "packages", external=True)
    real = {"HEPDASK_ML_REAL": "1"}
    session.run("pytest", "-m", "slurm or sge", *session.posargs, env=real)


@nox.session
def k8s(session: nox.Session) -> None:
    """Build Kubernetes from Debian's sources, once, and run campaigns on a node of it (root)."""
    session.install("-e.[test]", "dnslib")
    python = {"PYTHON": f"{session.bin}/python"}
    session.run("tests/kubernetes/run.sh", *session.posargs, env=python, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure toys per second and memory: one table, with the ratios to the other tools."""
    session.install("-e.[test]", *nox.project.dependency_groups(PYPROJECT, "bench"))
    session.run("python", "-m", "tests.benchmarks", *session.posargs)
