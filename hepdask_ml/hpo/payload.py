"""Objectives that are programs: an *evaluation command*, as the service of PanDA and iDDS calls it.

Each trial gets a fresh folder, ``workDir``, in which the command finds

- the files of its project,
- ``input.json``, the parameters,
- ``input_ds.json``, a list of the files of training data, which are links beside it or URLs,
- what the last attempt has saved, if that was cut short,

and writes ``output.json``, ``{"status": 0, "loss": 0.123, "message": "..."}``.  It may write
metadata and metrics, which are kept.  In its text ``%SEGMENT_NAME`` and ``%IN_DATA`` are replaced.

The file decides, not the exit code: so the service has it, and many a payload ends with a clean-up
that fails.  A loss of 0.0 is a loss.  What is missing, malformed, not finite or too large is an
error, and costs an attempt.

A payload that is stopped near the end of its worker's walltime is given back, and goes on
elsewhere.  If it has had most of that walltime, and has saved nothing, it would do so for ever:
this costs an attempt.

References
----------
| panda-docs, ``client/phpo.rst``
| iDDS, ``docs/source/usecases/hyperparemeter_optimization.rst``
| PanDA's transform ``runHPO-00-00-01``
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

from hepdask_ml.errors import HepdaskError
from hepdask_ml.facility.node import End, end, process_start
from hepdask_ml.hpo import commands
from hepdask_ml.hpo.commands import Shipped
from hepdask_ml.hpo.containers import Container, Wrapped
from hepdask_ml.hpo.foreign import joined
from hepdask_ml.hpo.payload_output import Kept
from hepdask_ml.hpo.payload_saving import Saver, Saving, restore
from hepdask_ml.hpo.values import identity, shown

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

OUTPUT_BYTES = 10**6
"""Length of ``output.json`` at most."""

LEAVING_S = 60.0
"""Time before the end of a walltime at which nobody stops a payload for another reason."""

_POLL_S = 0.1
_SCRIPT = "__run_main_exec.sh"
_WORK = "workDir"
_INSIDE = "/srv"
_DATA_WORD = re.compile(r"%IN_DATA(?=[ \"']|$)")


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the files that a payload reads and writes in its folder.

    Attributes
    ----------
    params : str
        The parameters.
    data : str
        The list of training data.
    output : str
        The loss.
    meta, metrics : str or None
        Metadata, and metrics (a file or a folder), if it writes any.
    """

    params: str = "input.json"
    data: str = "input_ds.json"
    output: str = "output.json"
    meta: str | None = None
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """An objective that is a program.

    Attributes
    ----------
    command : str
        Its command line, for ``/bin/sh``.
    files : tuple of Shipped
        Files of its project; they travel with it to the workers.
    names : Names
        What it reads and writes.
    saving : Saving
        What is saved of an attempt that is cut short.
    container : Container or None
        What it runs in; bare if None.
    output : str or None
        Folder in which metadata, metrics and the end of what it said are kept; they are not if
        None.
    data : tuple of str
        Files or URLs of the training data of trials that have no segment.
    segments : tuple of str
        Names of all segments; the number of each is its position.
    model_id : bool
        Whether the parameters are written as ``[model_id, {...}]``.
    arrays : bool
        Whether components such as ``w[0]`` are joined to arrays, as the form of nevergrad wants it.
    task : str
        Name of the whole, from which ``PanDA_TaskID`` is made.
    """

    command: str
    files: tuple[Shipped, ...] = field(default=(), repr=False)
    names: Names = field(default_factory=Names)
    saving: Saving = field(default_factory=Saving)
    container: Container | None = None
    output: str | None = None
    data: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    model_id: bool = False
    arrays: bool = True
    task: str = "phpo"

    @property
    def digest(self) -> str:
        """Names what decides a loss: the command, its image, and its files of code and settings.

        Files of JSON do not count: those of phpo are among them, and results of all kinds.
        """
        image = self.container and self.container.image
        known = identity([self.command, image, [self.names.params, self.names.data], self.model_id])
        made = blake2b(known.encode(), digest_size=16)
        for file in self.files:
            if file.name.endswith(".json"):
                continue
            made.update(identity([file.name, len(file.content)]).encode() + file.content)
        return made.hexdigest()

    def __call__(self, params: Mapping[str, Any], context: Context) -> Any:
        """Run the command.

        Parameters
        ----------
        params : mapping of str to Any
            The parameters of the trial.
        context : Context
            The trial.

        Returns
        -------
        float or list of float or None
            The loss, or several of them; None if it had to stop before its end.

        Raises
        ------
        WorkerFault
            If this machine cannot run it.
        HepdaskError
            If it gave no loss.
        """
        outside = context.folder
        work = outside / _WORK
        work.mkdir()
        kept = None if self.output is None else Kept(Path(self.output), context)
        commands.unpack(self.files, work)
        files = context.files or self.data
        data = self._data(work, files)
        self._write_params(work, params, context.segment)
        restore(self.saving, work, context)
        wrapped, environment = self._wrapped(outside, files, data, context)
        log = outside / "log"
        saver = Saver(self.saving, work, outside / "tarball", context)
        with commands.running(
            wrapped.command, outside, log, environment, wrapped.farewell
        ) as process:
            while not commands.ended(process, _POLL_S):
                if context.should_stop:
                    saver.last(lambda: commands.stop(process))
                    if process.poll() is None or process.returncode < 0:
                        if not saver.saved and _had_its_time(context.seconds):
                            raise _too_long(context.seconds, log)
                        return None
                    break  # it came to its end before it was told
                saver.look()
        if kept is not None:
            kept.log(log)
        try:
            loss = self._loss(work, len(context.losses))
            if kept is not None:
                self._keep(kept, work, self._point(context))
        except HepdaskError as error:
            code = commands.code_text(process.returncode)
            raise HepdaskError(f"{error} ({code}){commands.tail(log)}") from None
        return loss

    def _point(self, context: Context) -> int:
        """Give a number to a trial that no other one has, in all segments."""
        return context.number * max(1, len(self.segments)) + self._place(context.segment)

    def _place(self, segment: str) -> int:
        return self.segments.index(segment) if segment in self.segments else 0

    def _data(self, work: Path, files: tuple[str, ...]) -> list[str]:
        """Put training data where the command looks for them; give their names."""
        if not files:
            return []
        given = []
        for name in files:
            if "://" in name:
                given.append(name)
                continue
            path = Path(name).absolute()
            link = work / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
            given.append(path.name)
        (work / self.names.data).write_text(json.dumps(given), encoding="utf-8")
        return given

    def _write_params(self, work: Path, params: Mapping[str, Any], segment: str) -> None:
        written: Any = joined(params) if self.arrays else dict(params)
        if self.model_id and segment:
            written = [self._place(segment), written]
        (work / self.names.params).write_text(json.dumps(written), encoding="utf-8")

    def _wrapped(
        self, outside: Path, files: tuple[str, ...], data: list[str], context: Context
    ) -> tuple[Wrapped, dict[str, str]]:
        text = self.command.replace("%SEGMENT_NAME", context.segment)
        text = _DATA_WORD.sub(lambda _: ",".join(data), text)
        (outside / _SCRIPT).write_text(
            f"cd {_WORK}\nexport PATH=$PATH:.\n{text}\n", encoding="utf-8"
        )
        first = next(iter(text.split()), "").removeprefix("./")
        if first in {file.name for file in self.files}:
            (outside / _WORK / first).chmod(0o755)
        number = str(self._point(context) + 1)
        environment = {
            "PandaID": number,
            "PANDAID": number,
            "PanDA_TaskID": str(crc32(self.task.encode())),
            # Each trial has a folder of its own, as the first one of a job has there.
            "PILOT_EXEC_ITERATION_COUNT": "0",
            "HEPDASK_ML_SEED": str(context.seed),
        }
        command = ["/bin/sh", _SCRIPT]
        if self.container is None:
            return Wrapped(command, []), environment
        folders = sorted({Path(name).absolute().parent for name in files if "://" not in name})
        return (
            self.container.wrapped(command, outside, _INSIDE, environment, folders),
            environment,
        )

    def _loss(self, work: Path, several: int) -> Any:
        """Read the loss."""
        name = self.names.output
        try:
            found = commands.read_result(work / name, OUTPUT_BYTES, "the payload")
        except FileNotFoundError:
            raise HepdaskError(
                f'the payload has not written {name}: it has to hold {{"status": 0, "loss": ...}}'
            ) from None
        if not isinstance(found, dict):
            raise HepdaskError(
                f'{name} holds {shown(found)}: it has to hold {{"status": 0, "loss": ...}}'
            )
        if found.get("status", 0) != 0:
            message = found.get("message")
            told = "" if message is None else f": {shown(message)}"
            raise HepdaskError(f"the payload has given status {shown(found['status'])}{told}")
        if "loss" not in found:
            raise HepdaskError(f"{name} holds no loss: the payload has to write one")
        loss = found["loss"]
        losses = loss if isinstance(loss, list) else [loss]
        for value in losses:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not isfinite(value):
                raise HepdaskError(f"{name} holds the loss {shown(value)}: it must be a number")
        if len(losses) != several:
            raise HepdaskError(
                f"{name} holds {len(losses)} losses, and the search has {several}: name them with "
                "--objective"
            )
        return losses[0] if several == 1 else losses

    def _keep(self, kept: Kept, work: Path, point: int) -> None:
        if self.names.meta is not None:
            kept.meta(work / self.names.meta)
        if self.names.metrics is not None:
            kept.metrics(work / self.names.metrics, f"{self.names.metrics}_{point}")


def _had_its_time(ran_s: float) -> bool:
    """Whether a payload had most of this worker's walltime, which is at its end."""
    left = _end().left()
    return left < LEAVING_S and ran_s > 0.5 * (left + time() - process_start())


@lru_cache(maxsize=1)
def _end() -> End:
    return end()


def _too_long(ran_s: float, log: Path) -> HepdaskError:
    return HepdaskError(
        f"the payload has not ended within the walltime of its worker, after {ran_s:.0f} s, and "
        f"has saved nothing: give a longer walltime, or checkPointToSave{commands.tail(log)}"
    )
