"""Real XRootD servers on the loopback address, and what can happen to them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stories.work import wait_for

HERE = Path(__file__).parent


class Server:
    """One server; files in its store are ``/store/NAME``.

    Attributes
    ----------
    store : Path
        What it serves; a redirector has none.
    address : str
        Its URL.
    """

    def __init__(self, folder: Path, other: Server | None = None) -> None:
        self.port = _free_port()
        self.address = f"root://127.0.0.1:{self.port}"
        self.store = folder / "data" / "store"
        self._folder = folder
        self._other = other
        self._process: subprocess.Popen[bytes] | None = None
        self.store.mkdir(parents=True)

    def url(self, name: str) -> str:
        return f"{self.address}//store/{name}"

    def put(self, path: Path, name: str | None = None) -> None:
        """Have it serve a copy of a file."""
        copy = self.store / (name or path.name)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.start_later(0.0)
        wait_for(self._answers, f"a server at port {self.port}")

    def start_later(self, after_s: float) -> None:
        """Have it start after a while."""
        verb, last = ("data", str(self.store.parent))
        if self._other is not None:
            verb, last = "redirector", str(self._other.port)
        script = [str(HERE / "xrootd.sh"), verb, str(self._folder / "run"), str(self.port), last]
        command = ["sh", "-c", f'sleep {after_s}; exec "$@"', "-", *script]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Let it die at once, as a machine does that loses its power."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def hang(self) -> None:
        """Let it keep its connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._folder / "log").read_text()[-2000:])
        return not _is_free(self.port)


class Servers:
    """The servers of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Server] = []

    def data(self, *files: Path) -> Server:
        """Start a server of copies of these files."""
        server = Server(self._new())
        for path in files:
            server.put(path)
        return self._started(server)

    def redirector(self, other: Server) -> Server:
        """Start a server that knows where files are, and has none."""
        return self._started(Server(self._new(), other))

    def end(self) -> None:
        for server in self._all:
            server.end()

    def _new(self) -> Path:
        folder = self._folder / f"{len(self._all)}"
        folder.mkdir()
        return folder

    def _started(self, server: Server) -> Server:
        self._all.append(server)
        server.start()
        return server


@contextmanager
def real_servers() -> Iterator[Servers]:
    """Start servers; no process of them is left afterwards."""
    # Not below pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="hepdask-xrootd-") as name:
        Path(name).chmod(0o755)
        servers = Servers(Path(name))
        try:
            yield servers
        finally:
            servers.end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
