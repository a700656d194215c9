"""Optimisers that are programs: a *steering command*, as the iDDS service calls it.

A command is given everything that was tried in one JSON file, and writes what to try next into
another one.  It is called anew each time, in a fresh folder, with these words replaced in its
text:

``%IN``, ``%OUT``
    Names of the two files, in the folder in which it runs.
``%NUM_POINTS``
    How many points are wanted.
``%MAX_POINTS``
    How many there will be in all; unless somebody says it, as many as there are with these.
``%X509_USER_PROXY_FULLNAME``, ``%X509_USER_PROXY_BASENAME``
    The user's grid proxy, where there is one.

``%IN`` holds ``{"points": [[{"lr": 0.1}, 0.3], [{"lr": 0.2}, null]], "opt_space": ...}``, where
``null`` stands for a point that was not evaluated yet; one that has failed has the worst loss that
any point got, as with all optimisers here.  ``%OUT`` holds ``[{"lr": 0.15}, ...]``.  What is more
than was asked for is left away, since there are programs that do not count; ``[]`` ends the search.

The points of a *segment* are written as ``[model_id, {"lr": 0.1}]``, and its space as
``[{"model_id": 0, "search_space": ...}]``.  The service asks for all segments in one call; here
each is asked for by itself, and the program is shown this segment's points and space alone.  A
program that treats its models independently of each other, which is what segments are for, sees
nothing that one call could not have held.

References
----------
iDDS, ``docs/source/usecases/hyperparemeter_optimization.rst``, and its ``atlashpowork.py``
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.hpo import commands
from hepdask_ml.hpo.containers import Container, Wrapped
from hepdask_ml.hpo.optimisers import COMMAND, Proposal, one_loss, small
from hepdask_ml.hpo.values import plain, shown

if TYPE_CHECKING:
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space

INPUT = "idds_input.json"
OUTPUT = "output.json"
"""Names for ``%IN`` and ``%OUT``."""

RESULT_BYTES = 10**7
"""Length of what a command writes at most."""

TIMEOUT_S = 3600.0
"""Time for one call."""

_SCRIPT = "__run_steering_exec.sh"
_WORD = re.compile(
    "%(MAX_POINTS|NUM_POINTS|X509_USER_PROXY_FULLNAME|X509_USER_PROXY_BASENAME|IN|OUT)"
)


@dataclass(frozen=True, slots=True)
class Command:
    """An optimiser that is a program.

    Attributes
    ----------
    command : str
        Its command line, for ``/bin/sh``.
    folder : Path or None
        Where the user keeps it: a bare command finds all that lies there in its own folder.
    container : Container or None
        What it runs in; bare if None.
    docker : bool
        Whether the command line is what follows the word ``docker``.
    opt_space : Any
        What the program is told of the search space; our own form of it if None.
    model_id : int or None
        Number of the segment that it is for, if any.
    max_points : int or None
        Points in all, of this segment.
    several : bool
        False: it takes one loss.
    unchecked : bool
        True: what it proposes need not lie in the space.
    timeout_s : float
        Time for one call, in seconds.
    """

    command: str
    folder: Path | None = None
    container: Container | None = None
    docker: bool = False
    opt_space: Any = None
    model_id: int | None = None
    max_points: int | None = None
    several: bool = False
    unchecked: bool = True
    timeout_s: float = TIMEOUT_S

    @property
    def name(self) -> str:
        """Its name among the optimisers."""
        return f"{COMMAND}{self.command}"

    def propose(
        self, space: Space | None, past: Sequence[Past], n: int, seed: int
    ) -> list[Proposal]:
        """Call the program.

        Parameters
        ----------
        space, past, n, seed
            As for every optimiser.  The seed is in the variable ``HEPDASK_ML_SEED``.

        Returns
        -------
        list of Proposal
            What it gave: n at most.

        Raises
        ------
        HepdaskError
            If it fails, or gives what cannot be read.
        """
        losses = {trial.number: loss for trial, loss in one_loss(past, "command")}
        tried = sorted(past, key=lambda trial: trial.number)
        points = [[self._pointed(trial.params), losses.get(trial.number)] for trial in tried]
        given = {"points": points, "opt_space": self._space(space)}
        most = max(self.max_points or 0, len(tried) + n)
        with TemporaryDirectory(prefix="hepdask-ml-") as name:
            folder = Path(name)
            self._link(folder)
            (folder / INPUT).write_text(json.dumps(given), encoding="utf-8")
            return self._read(folder, self._called(folder, n, most, seed), n)

    def _space(self, space: Space | None) -> Any:
        written = self.opt_space
        if written is None and space is not None:
            written = space.to_json()
        if self.model_id is None or written is None:
            return written
        return [{"model_id": self.model_id, "search_space": written}]

    def _pointed(self, params: Mapping[str, Any]) -> Any:
        return dict(params) if self.model_id is None else [self.model_id, dict(params)]

    def _link(self, folder: Path) -> None:
        """Let a bare command find the user's files; a container has its own."""
        if self.folder is None or self.container is not None or self.docker:
            return
        for path in self.folder.absolute().iterdir():
            if path.name not in (INPUT, OUTPUT, _SCRIPT):
                (folder / path.name).symlink_to(path)

    def _called(self, folder: Path, n: int, most: int, seed: int) -> str:
        """Run it; give the end of what it has said."""
        proxy = os.environ.get("X509_USER_PROXY", "")
        words = {
            "MAX_POINTS": str(most),
            "NUM_POINTS": str(n),
            "IN": INPUT,
            "OUT": OUTPUT,
            "X509_USER_PROXY_FULLNAME": proxy,
            "X509_USER_PROXY_BASENAME": Path(proxy).name,
        }
        text = _WORD.sub(lambda found: words[found[1]], self.command)
        text = f"docker {text}" if self.docker else text
        (folder / _SCRIPT).write_text(f"{text}\n", encoding="utf-8")
        environment = {"HEPDASK_ML_SEED": str(small(seed))}
        wrapped = Wrapped(["/bin/sh", _SCRIPT], [])
        if self.container is not None:
            # At the same place inside: "$PWD/%IN" may have been meant for either side.
            wrapped = self.container.wrapped(wrapped.command, folder, str(folder), environment)
        log = folder.with_name(f"{folder.name}.log")
        try:
            with commands.running(
                wrapped.command, folder, log, environment, wrapped.farewell
            ) as process:
                if not commands.ended(process, self.timeout_s):
                    commands.stop(process)
                    raise HepdaskError(
                        f"the steering command has not ended after {self.timeout_s:.0f} s"
                        f"{commands.tail(log)}"
                    )
            if process.returncode:
                raise HepdaskError(
                    f"the steering command has failed ({commands.code_text(process.returncode)})"
                    f"{commands.tail(log)}"
                )
            return commands.tail(log)
        finally:
            log.unlink(missing_ok=True)

    def _read(self, folder: Path, said: str, n: int) -> list[Proposal]:
        try:
            written = commands.read_result(folder / OUTPUT, RESULT_BYTES, "the steering command")
        except FileNotFoundError:
            raise HepdaskError(
                f"the steering command has not written {OUTPUT}, which stands for %OUT{said}"
            ) from None
        if not isinstance(written, list):
            raise HepdaskError(
                f"the steering command has written {shown(written)}: it has to write a list of "
                "points, and [] to end the search"
            )
        found = [self._params(i, point) for i, point in enumerate(written)]
        return [Proposal(params) for params in found if params is not None][:n]

    def _params(self, place: int, point: Any) -> dict[str, Any] | None:
        """Give the parameters of a point; None if it belongs to another segment."""
        if self.model_id is not None:
            if not (isinstance(point, list) and len(point) == 2):
                raise HepdaskError(
                    f"point {place} of the steering command is {shown(point)}: with segments it "
                    "has to write [model_id, {...}] for each point"
                )
            model_id, point = point
            if model_id != self.model_id:
                return None
        if not isinstance(point, dict):
            raise HepdaskError(
                f"point {place} of the steering command is {shown(point)}: it has to map names to "
                "values"
            )
        params: dict[str, Any] = plain(point)
        return params


def optimiser(name: str) -> Command:
    """Make the optimiser of a command line.

    Parameters
    ----------
    name : str
        ``"command:"`` and the command line.

    Returns
    -------
    Command
        It is run bare, and finds what lies in the folder that is the current one now.

    Raises
    ------
    InputError
        If there is no command line.

    Examples
    --------
    >>> optimiser("command:python steer.py %NUM_POINTS %IN %OUT").command
    'python steer.py %NUM_POINTS %IN %OUT'
    """
    command = name.removeprefix(COMMAND).strip()
    if not command:
        raise InputError(f'"{name}" names no command: write it behind the colon')
    return Command(command, folder=Path.cwd())
