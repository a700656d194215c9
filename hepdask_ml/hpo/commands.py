"""Commands of other people: run in a folder, watched, and gone with whoever runs them.

A command is text for ``/bin/sh``, as its author wrote it, and runs in a process group of its own.
The group ends with the command: what it left behind is killed.  It also ends with this process,
even if that is killed: a *watcher* in the group holds the reading end of a pipe whose other end
nobody but this process has, and kills the group when the pipe closes.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from time import monotonic, sleep
from typing import Any

import psutil

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.hpo.document import parse_json

SHIPPED = (".json", ".py", ".sh", ".yaml")
"""Files of a project that travel with its commands."""

SHIPPED_BYTES = 8 * 10**6
"""All of them at most: each worker gets them in a message, and of 10 MB Dask warns."""

GRACE_S = 2.0
"""Time between asking a command to end and killing it."""

_TAIL_BYTES = 4096
_TAIL_SHOWN = 600

# $0 is what else is to be ended, "$@" the command.  The watcher outlives a polite request, which
# goes to the whole group.
_KEEPER = """\
exec 3<&0 </dev/null
(trap '' HUP INT TERM; read -r _ <&3; eval "$0"; kill -KILL -$$) >/dev/null 2>&1 &
exec 3<&-
"$@"
"""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A file that travels with a command.

    Attributes
    ----------
    name : str
        Its place below the folder of the command.
    content : bytes
        What it holds.
    executable : bool
        Whether it may be run.
    """

    name: str
    content: bytes
    executable: bool = False


def shipped(folder: Path, spared: Sequence[Path] = ()) -> tuple[Shipped, ...]:
    """Read the files of a project that travel with its commands.

    Parameters
    ----------
    folder : Path
        The project.
    spared : sequence of Path
        Folders and files in it that are left out.

    Returns
    -------
    tuple of Shipped
        All files named ``*.json``, ``*.py``, ``*.sh`` or ``*.yaml`` below it, by name.

    Raises
    ------
    InputError
        If they are too large all together, or one cannot be read.
    """
    left_out = {path.resolve() for path in spared}
    found: list[Shipped] = []
    sizes: dict[str, int] = {}
    for where, folders, files in os.walk(folder):
        place = Path(where)
        folders[:] = sorted(name for name in folders if (place / name).resolve() not in left_out)
        for path in sorted(place / name for name in files if name.endswith(SHIPPED)):
            if not path.is_file() or path.resolve() in left_out:
                continue
            name = path.relative_to(folder)
            sizes[name.parts[0]] = sizes.get(name.parts[0], 0) + path.stat().st_size
            if sum(sizes.values()) > SHIPPED_BYTES:
                worst = max(sizes, key=lambda part: sizes[part])
                raise InputError(
                    f"the *.json, *.py, *.sh and *.yaml files below {folder} hold more than "
                    f"{SHIPPED_BYTES / 1e6:.0f} MB, most of it in {worst}: each worker gets them, "
                    "so move what the commands do not need elsewhere"
                )
            found.append(_read(path, name.as_posix()))
    return tuple(sorted(found, key=lambda each: each.name))


def _read(path: Path, name: str) -> Shipped:
    try:
        return Shipped(name, path.read_bytes(), os.access(path, os.X_OK))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): it travels with the commands, so make it "
            "readable or move it"
        ) from None


def unpack(files: Sequence[Shipped], folder: Path) -> None:
    """Put the files of a project into a folder.

    Parameters
    ----------
    files : sequence of Shipped
        The files.
    folder : Path
        Where to.
    """
    for file in files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        if file.executable:
            path.chmod(0o755)


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    farewell: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command; at the end of the block nothing is left of it.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    folder : Path
        Where it runs.
    log : Path
        File for what it says.
    environment : mapping of str to str
        Variables beside those of this process.
    farewell : sequence of str
        Another command, which ends what does not belong to the group; run if it has to be stopped.

    Yields
    ------
    subprocess.Popen
        The leader of its group.
    """
    reading, writing = os.pipe()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, shlex.join(farewell) or ":", *command],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=reading,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    try:
        yield process
    finally:
        # Its leader has not ended by itself.
        if farewell and (process.poll() is None or process.returncode < 0):
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    farewell,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=30.0,
                    check=False,
                )
        # The watcher is still in the group, so that its number belongs to nobody else.
        _signal(process, signal.SIGKILL)
        process.wait()
        os.close(writing)


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a command; say whether it has come.

    Parameters
    ----------
    process : subprocess.Popen
        The command.
    seconds : float
        To wait at most.

    Returns
    -------
    bool
        Whether it has ended.
    """
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def stop(process: subprocess.Popen[bytes]) -> bool:
    """Ask a command and all its children to end.

    Parameters
    ----------
    process : subprocess.Popen
        The command.

    Returns
    -------
    bool
        Whether all of them ended by themselves within `GRACE_S` seconds.
    """
    _signal(process, signal.SIGTERM)
    deadline = monotonic() + GRACE_S
    while _others(process):
        if monotonic() > deadline:
            return False
        sleep(0.02)
    return True


def _others(process: subprocess.Popen[bytes]) -> bool:
    """Whether there is anybody in the group but the watcher; shells die before their children."""
    members = 0
    for number in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getpgid(number) == process.pid:
                members += psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    return members > 1


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def tail(log: Path) -> str:
    """Give the end of what a command has said.

    Parameters
    ----------
    log : Path
        File with it.

    Returns
    -------
    str
        One line, ready to follow a sentence; empty where it has said nothing.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            said = file.read()
    except OSError:
        return ""
    text = " | ".join(filter(None, map(str.strip, said.decode(errors="replace").splitlines())))
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(shown) > _TAIL_SHOWN:
        shown = f"...{shown[-_TAIL_SHOWN:]}"
    return f"; the last that it said: {shown}" if shown else ""


def code_text(code: int) -> str:
    """Name an exit code, as in a sentence.

    Parameters
    ----------
    code : int
        Of a shell: above 128 it is that of a signal; negative if the shell itself was killed.

    Returns
    -------
    str
        For example ``"exit code 1"``.

    Examples
    --------
    >>> code_text(1), code_text(137)
    ('exit code 1', 'exit code 137, killed by SIGKILL')
    """
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        return f"exit code {code}, killed by {signal.Signals(number).name}"
    reasons = {126: ", not executable", 127: ", command not found"}
    return f"exit code {code}{reasons.get(code, '')}"


def read_result(path: Path, most: int, who: str) -> Any:
    """Read a JSON file that a command has written.

    Parameters
    ----------
    path : Path
        The file.
    most : int
        Bytes that it may have.
    who : str
        What wrote it, for messages.

    Returns
    -------
    Any
        What it holds.

    Raises
    ------
    FileNotFoundError
        If there is none.
    HepdaskError
        If it is too large, no regular file, or not JSON.
    """
    found = path.stat()
    if not S_ISREG(found.st_mode):
        raise HepdaskError(f"{path.name} is no file: {who} has to write a file of JSON")
    if found.st_size > most:
        raise HepdaskError(
            f"{path.name} has {found.st_size:,} bytes, and {most:,} is the most: {who} has to "
            "write less into it"
        )
    try:
        return parse_json(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError:
        raise HepdaskError(f"{path.name} is not UTF-8 text: {who} has to write JSON") from None
    except InputError as error:
        raise HepdaskError(f"{who} has written what cannot be read: {error}") from None
