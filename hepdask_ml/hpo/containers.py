"""Commands in containers: an image, and whichever program of this machine can run it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from hepdask_ml.errors import WorkerFault

PROGRAMS = ("apptainer", "singularity", "docker")
"""Programs that run containers, the preferred one first."""

_REGISTRY = "docker://"
_GPU = Path("/dev/nvidiactl")
_SOFTWARE = Path("/cvmfs")
_PROXY = "X509_USER_PROXY"


class Wrapped(NamedTuple):
    """A command in a container.

    Attributes
    ----------
    command : list of str
        Program and arguments.
    farewell : list of str
        What ends the container where that does not end with its program.
    """

    command: list[str]
    farewell: list[str]


@dataclass(frozen=True, slots=True)
class Container:
    """An image that commands run in.

    Attributes
    ----------
    image : str
        Its name: ``docker://registry/name:tag``, the same without the prefix, or a file or folder
        of this machine.
    programs : tuple of str
        What may run it, the preferred one first.
    """

    image: str
    programs: tuple[str, ...] = PROGRAMS

    @property
    def program(self) -> str:
        """The first of its programs that this machine has.

        Raises
        ------
        WorkerFault
            If there is none.
        """
        able = [name for name in self.programs if name != "docker" or not self._local]
        for name in able:
            if shutil.which(name):
                return name
        raise WorkerFault(
            f"this machine has no {' and no '.join(able)} to run {self.image}: install one, or run "
            "the commands bare with --bare"
        )

    @property
    def _local(self) -> bool:
        return self.image.startswith(("/", "./", "../")) or self.image.endswith(".sif")

    def wrapped(
        self,
        command: Sequence[str],
        folder: Path,
        inside: str,
        environment: Mapping[str, str],
        data: Sequence[Path] = (),
    ) -> Wrapped:
        """Put a command into a container.

        Parameters
        ----------
        command : sequence of str
            Program and arguments, as they are inside.
        folder : Path
            Folder of this machine in which it may write.
        inside : str
            Where that is inside; the command begins there.
        environment : mapping of str to str
            Variables that it needs; docker keeps out all others.
        data : sequence of Path
            Folders that it may read, at the same place inside.

        Returns
        -------
        Wrapped
            The command of this machine.

        Raises
        ------
        WorkerFault
            If this machine has no program for it.
        """
        program = self.program
        readable = [str(path) for path in data]
        if program == "docker":
            return self._in_docker(command, folder, inside, environment, readable)
        image = self.image
        if "://" not in image and not self._local:
            image = f"{_REGISTRY}{image}"
        mounts = [f"{folder}:{inside}", *(f"{path}:{path}:ro" for path in readable)]
        if _SOFTWARE.is_dir():
            mounts.append(f"{_SOFTWARE}:{_SOFTWARE}:ro")
        return Wrapped(
            [
                program, "exec", *(["--nv"] if _GPU.exists() else []),
                *(part for mount in mounts for part in ("--bind", mount)),
                "--pwd", inside, image, *command,
            ],
            [],
        )  # fmt: skip

    def _in_docker(
        self,
        command: Sequence[str],
        folder: Path,
        inside: str,
        environment: Mapping[str, str],
        readable: Sequence[str],
    ) -> Wrapped:
        """Name the container, to end it by: it belongs to another process, docker's own."""
        name = f"hepdask-ml-{token_hex(8)}"
        mounts = [f"{folder}:{inside}", *(f"{path}:{path}:ro" for path in readable)]
        variables = {**environment, "HOME": inside}  # that of the image may not be this user's
        if _SOFTWARE.is_dir():
            mounts.append(f"{_SOFTWARE}:{_SOFTWARE}")
        if proxy := os.environ.get(_PROXY):
            variables[_PROXY] = f"{inside}/x509up"
            mounts.append(f"{proxy}:{variables[_PROXY]}:ro")
        return Wrapped(
            [
                "docker", "run", "--rm", "--init", "--name", name,
                # Else what it writes belongs to root, and nobody here can remove it.
                "--user", f"{os.getuid()}:{os.getgid()}",
                *(["--gpus", "all"] if _GPU.exists() else []),
                *(part for mount in mounts for part in ("-v", mount)),
                *(part for key in sorted(variables) for part in ("-e", f"{key}={variables[key]}")),
                "-w", inside, self.image.removeprefix(_REGISTRY), *command,
            ],
            ["docker", "kill", name],
        )  # fmt: skip
