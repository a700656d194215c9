"""A trial always finds its newest sound checkpoint, whoever is killed, fails or writes beside."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.training import checkpoint as module
from hepdask_ml.training.checkpoint import Checkpoint, Checkpoints, Part

STATE = """
import os, sys
from hashlib import blake2b
from hepdask_ml.training.checkpoint import Checkpoints

def state(epoch, size):
    block = blake2b(b"%d" % epoch).digest()
    return {"weights": block * (size // 64), "epoch": b"%d" % epoch}
"""
"""Begins the other processes of these tests."""

WRITE = f"""{STATE}
where, size = sys.argv[1], int(sys.argv[2])
checkpoints = Checkpoints(where)
found = checkpoints.load()
epoch = found.epoch if found else 0
while True:
    epoch += 1
    checkpoints.save(epoch, state(epoch, size))
    print(epoch, flush=True)
"""

DIE_AT = f"""{STATE}
import signal
from itertools import count
from pathlib import Path
from hepdask_ml.training import checkpoint

calls = last = 0

def deadly(owner, name):
    real = getattr(owner, name)
    def step():
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
    def call(*args, **kwargs):
        step()
        result = real(*args, **kwargs)
        step()
        return result
    setattr(owner, name, call)

for owner, name in [(os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"),
                    (checkpoint, "_header"), (checkpoint, "_padding")]:
    deadly(owner, name)
for last in count(1):
    child = os.fork()
    if not child:
        said = open(os.path.join(sys.argv[1], str(last) + ".said"), "w")
        checkpoints = Checkpoints(os.path.join(sys.argv[1], str(last)))
        for epoch in range(1, 5):
            checkpoints.save(epoch, state(epoch, 1 << 16))
            print(epoch, file=said, flush=True)
        os._exit(0)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("end", last, abs(end), flush=True)
    if end != -signal.SIGKILL:
        break
"""
"""Is killed before and after each of its steps, each time from the beginning."""

RACE = f"""{STATE}
where, begin = sys.argv[1], int(sys.argv[2])
checkpoints = Checkpoints(where)
checkpoints.load(at_most=begin)
print("ready", flush=True)
sys.stdin.readline()
for epoch in range(begin + 1, begin + 31):
    reference = checkpoints.save(epoch, state(epoch, 1 << 16))
    mine = checkpoints.read(reference)
    assert mine.parts == state(epoch, 1 << 16), epoch
print(reference, flush=True)
"""

FILL = f"""{STATE}
import resource
from hepdask_ml.errors import HepdaskError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, state(1, 1 << 16))
try:
    checkpoints.save(2, state(2, 1 << 20))
except HepdaskError as error:
    print(error)
assert checkpoints.load().parts == state(1, 1 << 16)
"""


def state(epoch: int, size: int = 1 << 16) -> dict[str, bytes]:
    """Give what the other processes save."""
    block = blake2b(b"%d" % epoch).digest()
    return {"weights": block * (size // 64), "epoch": b"%d" % epoch}


def script(text: str, *arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> list[str]:
    """List what lies in a folder, or would in the file system of memory."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def loaded(checkpoints: Checkpoints, at_most: int | None = None) -> Checkpoint:
    found = checkpoints.load(at_most)
    assert found
    return found


def file_of(folder: Path, reference: str) -> Path:
    return folder / f"{reference}.tar"


def unfinished(folder: Path) -> list[Path]:
    """List what writers are at, or left; what is empty may stay."""
    return [path for path in folder.glob(".*.unfinished") if path.stat().st_size]


def spoil(path: Path) -> None:
    """Change one byte amid the contents."""
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)


@pytest.fixture(params=["folder", "file", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place of each kind."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}/trial"
        fsspec.filesystem("memory").store.clear()
    else:
        yield f"{'file://' if request.param == 'file' else ''}{tmp_path / 'deep' / 'trial'}"


class TestBook:
    def test_there_is_nothing_in_the_beginning(self, where: str) -> None:
        checkpoints = Checkpoints(where)
        assert checkpoints.load() is None
        assert not checkpoints.faults
        checkpoints.remove()

    def test_gives_back_what_was_saved(self, where: str, tmp_path: Path) -> None:
        long = os.urandom(9_000_001)
        (tmp_path / "a file").write_bytes(long[::-1])
        parts: dict[str, Part] = {
            "bytes": long,
            "array": bytearray(b"abc"),
            "view": io.BytesIO(long).getbuffer()[5:],
            "file": tmp_path / "a file",
            "nothing": b"",
            "block": bytes(512),
        }
        reference = Checkpoints(where).save(7, parts)
        found = loaded(Checkpoints(where))
        assert (found.epoch, found.reference, found.faults) == (7, reference, ())
        assert found.parts == {
            "bytes": long, "array": b"abc", "view": long[5:], "file": long[::-1], "nothing": b"",
            "block": bytes(512),
        }  # fmt: skip
        assert list(found.parts) == list(parts)
        assert Checkpoints(where).read(reference) == found

    def test_no_parts_are_a_checkpoint(self, where: str) -> None:
        Checkpoints(where).save(0, {})
        assert loaded(Checkpoints(where)).parts == {}

    def test_newest_few_are_kept(self, where: str) -> None:
        checkpoints = Checkpoints(where, keep=3)
        saved = [checkpoints.save(epoch, state(epoch)) for epoch in range(6)]
        for reference in saved[3:]:
            assert checkpoints.read(reference).reference == reference
        for reference in saved[:3]:
            with pytest.raises(HepdaskError, match=r"^there is no checkpoint .*: it was removed"):
                checkpoints.read(reference)
        assert loaded(checkpoints, at_most=4).epoch == 4
        assert checkpoints.load(at_most=2) is None

    def test_of_one_epoch_the_later_one_counts(self, where: str) -> None:
        checkpoints = Checkpoints(where)
        for number in range(12):
            checkpoints.save(5, {"number": b"%d" % number})
            assert loaded(Checkpoints(where)).parts == {"number": b"%d" % number}

    def test_one_takes_the_place_of_another_of_its_epoch(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path)
        saved = [checkpoints.save(epoch, state(epoch)) for epoch in (4, 5, 5, 5)]
        assert files(tmp_path) == [f"{saved[0]}.tar", f"{saved[-1]}.tar"]

    def test_the_folder_may_be_moved(self, tmp_path: Path) -> None:
        reference = Checkpoints(tmp_path / "a").save(1, state(1))
        (tmp_path / "a").rename(tmp_path / "b")
        assert Checkpoints(tmp_path / "b").read(reference).parts == state(1)

    def test_a_relative_folder_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        checkpoints = Checkpoints("trial")
        monkeypatch.chdir("/")
        checkpoints.save(1, state(1))
        assert checkpoints.where == str(tmp_path / "trial")
        assert len(files(tmp_path / "trial")) == 1

    def test_any_tool_opens_one(self, tmp_path: Path) -> None:
        reference = Checkpoints(tmp_path).save(3, state(3))
        with tarfile.open(file_of(tmp_path, reference)) as archive:
            members = archive.getmembers()
            contents = {}
            for member in members:
                file = archive.extractfile(member)
                assert file
                contents[member.name] = file.read()
        assert [member.name for member in members] == ["weights", "epoch", "manifest.json"]
        # What other tools ask for at the end.
        assert file_of(tmp_path, reference).read_bytes().endswith(bytes(1024))
        manifest = json.loads(contents.pop("manifest.json"))
        assert contents == state(3)
        assert manifest == {
            "format": 1,
            "epoch": 3,
            "parts": {
                name: {
                    "size": len(content),
                    "blake2b": blake2b(content, digest_size=32).hexdigest(),
                }
                for name, content in state(3).items()
            },
        }

    def test_remove_leaves_the_files_of_others(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path / "trial")
        checkpoints.save(1, state(1))
        for name in ("notes.txt", "00000001-backup.tar", ".hidden.unfinished"):
            (tmp_path / "trial" / name).write_text("mine")
        checkpoints.remove()
        assert files(tmp_path / "trial") == [
            ".hidden.unfinished", "00000001-backup.tar", "notes.txt",
        ]  # fmt: skip
        assert checkpoints.load() is None

    def test_nothing_is_left_after_remove(self, where: str, tmp_path: Path) -> None:
        checkpoints = Checkpoints(where)
        for epoch in range(4):
            checkpoints.save(epoch, state(epoch))
        checkpoints.remove()
        checkpoints.remove()
        assert files(tmp_path / "deep") == []
        assert fsspec.filesystem("memory").find(f"/{tmp_path.name}") == []
        checkpoints.save(9, state(9))
        assert loaded(checkpoints).epoch == 9


class TestDurable:
    def test_a_file_gets_its_name_when_it_is_on_the_disk_and_old_ones_go_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = Checkpoints(tmp_path / "deep" / "trial", keep=1)
        old = checkpoints.save(1, state(1))
        events = []
        sync, replace, unlink = os.fsync, Path.replace, Path.unlink

        def seen_sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            size = "" if path.is_dir() else os.fstat(descriptor).st_size
            events.append(f"sync {path.suffix or path.name} {size}".strip())
            sync(descriptor)

        def seen_replace(path: Path, target: Path) -> Path:
            events.append(f"name {path.suffix} {target.suffix}")
            return replace(path, target)

        def seen_unlink(path: Path, missing_ok: bool = False) -> None:
            events.append(f"remove {path.name}")
            unlink(path, missing_ok)

        monkeypatch.setattr(os, "fsync", seen_sync)
        monkeypatch.setattr(Path, "replace", seen_replace)
        monkeypatch.setattr(Path, "unlink", seen_unlink)
        new = checkpoints.save(2, state(2))
        size = file_of(tmp_path / "deep" / "trial", new).stat().st_size
        assert events[1:] == [
            f"sync .unfinished {size}",
            "name .unfinished .tar",
            "sync trial",
            f"remove {old}.tar",
        ]
        events.clear()
        Checkpoints(tmp_path / "other" / "trial").save(1, {})
        assert sorted(events[:2]) == ["sync other", f"sync {tmp_path.name}"]

    def test_a_folder_that_cannot_be_synced_is_none_the_worse(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sync(descriptor: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
                raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", sync)
        Checkpoints(tmp_path / "trial").save(1, state(1))
        assert loaded(Checkpoints(tmp_path / "trial")).epoch == 1


class TestDamage:
    def pair(self, where: str | Path) -> tuple[str, str]:
        checkpoints = Checkpoints(where)
        return checkpoints.save(4, state(4)), checkpoints.save(5, state(5))

    def test_the_one_before_stands_in(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, newest = self.pair(tmp_path)
        spoil(file_of(tmp_path, newest))
        checkpoints = Checkpoints(tmp_path)
        found = loaded(checkpoints)
        sentence = (
            f"the checkpoint of epoch 5 in {tmp_path} is damaged "
            '(part "weights" is not what was saved)'
        )
        assert (found.epoch, found.parts, found.faults) == (4, state(4), (sentence,))
        assert caplog.messages == [f"{sentence}: training goes on from epoch 4"]
        with pytest.raises(HepdaskError, match=r'"weights" is not what was saved\): take another'):
            checkpoints.read(newest)
        # The damaged one goes with the next, as an old one would.
        checkpoints.save(5, state(5))
        assert not file_of(tmp_path, newest).exists()
        again = loaded(Checkpoints(tmp_path))
        assert (again.epoch, again.parts, again.faults) == (5, state(5), ())

    def test_damaged_ones_do_not_count_among_those_that_are_kept(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, keep=3)
        saved = [checkpoints.save(epoch, state(epoch)) for epoch in (3, 4, 5)]
        spoil(file_of(tmp_path, saved[-1]))
        again = Checkpoints(tmp_path, keep=3)
        assert loaded(again).epoch == 4
        newest = again.save(6, state(6))
        assert files(tmp_path) == [f"{name}.tar" for name in (*saved[:2], newest)]

    def test_all_are_damaged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for reference in self.pair(tmp_path):
            file_of(tmp_path, reference).write_bytes(b"")
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.load() is None
        assert len(checkpoints.faults) == 2
        assert all(message.endswith("training starts anew") for message in caplog.messages)
        # It starts from the beginning, and below what is damaged.
        checkpoints.save(1, state(1))
        assert loaded(checkpoints).parts == state(1)
        assert not checkpoints.faults

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
    def test_a_store_that_kept_a_part_of_it(self, share: float, tmp_path: Path) -> None:
        where = f"memory://{tmp_path.name}"
        _, newest = self.pair(where)
        store = fsspec.filesystem("memory")
        path = f"/{tmp_path.name}/{newest}.tar"
        content = store.cat_file(path)
        store.pipe_file(path, content[: int(share * len(content))])
        found = loaded(Checkpoints(where))
        assert found.epoch == 4
        assert found.faults[0].startswith(f"the checkpoint of epoch 5 in memory:///{tmp_path.name}")

    @settings(max_examples=400, deadline=None)
    @given(data=st.data())
    def test_whatever_is_changed_is_found(self, data: st.DataObject) -> None:
        store = fsspec.filesystem("memory")
        checkpoints = Checkpoints("memory://changed")
        checkpoints.save(4, {"a": b"4"})
        newest = checkpoints.save(5, {"a": b"5" * 700, "b": b"five"})
        path = f"/changed/{newest}.tar"
        store.pipe_file(path, data.draw(changed(store.cat_file(path))))
        found = loaded(Checkpoints("memory://changed"))
        checkpoints.remove()
        if found.epoch == 5:
            assert found.parts == {"a": b"5" * 700, "b": b"five"}
            assert found.faults == ()
        else:
            assert (found.epoch, found.parts, len(found.faults)) == (4, {"a": b"4"}, 1)

    def test_every_bit_of_a_part_and_every_length(self) -> None:
        file = io.BytesIO()
        module._pack(file, 5, {"a": b"5" * 700, "b": b"five"}, lambda: None)
        whole = file.getvalue()
        assert module._unpack(io.BytesIO(whole), 5)
        end = len(whole) - 1024  # the mark of the end, of which nothing depends
        for length in range(end - 512):
            with pytest.raises(module._Damaged):
                module._unpack(io.BytesIO(whole[:length]), 5)
        for place in [*range(512, 1212), *range(2048, 2052)]:
            broken = bytearray(whole)
            broken[place] ^= 1 << place % 8
            with pytest.raises(module._Damaged, match=r'part "[ab]" is not what was saved'):
                module._unpack(io.BytesIO(broken), 5)

    def test_a_file_under_the_name_of_another(self, tmp_path: Path) -> None:
        old, newest = self.pair(tmp_path)
        shutil.copy(file_of(tmp_path, old), file_of(tmp_path, newest))
        found = loaded(Checkpoints(tmp_path))
        assert found.epoch == 4
        assert "its manifest is of another checkpoint" in found.faults[0]

    @pytest.mark.parametrize(
        "content", [b"[]", b"{}", b"null", b'{"parts": 3}', b"[" * 99999, b"\xff"]
    )
    def test_a_manifest_of_another_kind(self, content: bytes) -> None:
        file = io.BytesIO()
        file.write(module._header("manifest.json", len(content)) + content)
        file.write(module._padding(len(content)) + bytes(1024))
        file.seek(0)
        with pytest.raises(module._Damaged):
            module._unpack(file, 5)


def changed(content: bytes) -> st.SearchStrategy[bytes]:
    """Cut, lengthen, overwrite or replace it, at any place."""
    place = st.integers(0, len(content) - 1)
    return st.one_of(
        place.map(lambda at: content[:at]),
        st.binary(min_size=1).map(lambda more: content + more),
        st.tuples(place, st.binary(min_size=1, max_size=600)).map(
            lambda put: content[: put[0]] + put[1] + content[put[0] + len(put[1]) :]
        ),
        st.tuples(place, st.integers(1, 255)).map(
            lambda flip: (
                content[: flip[0]] + bytes([content[flip[0]] ^ flip[1]]) + content[flip[0] + 1 :]
            )
        ),
        st.tuples(place, place).map(lambda ends: content[min(ends) : max(ends)]),
        st.binary(max_size=2000),
    )


class TestFaults:
    """What the system refuses becomes one sentence, and harms nothing."""

    def check(self, error: HepdaskError, folder: Path | str) -> None:
        assert "\n" not in str(error)
        assert str(folder) in str(error)

    def test_disk_full(self, tmp_path: Path) -> None:
        with small_disk(tmp_path) as folder:
            checkpoints = Checkpoints(folder)
            checkpoints.save(1, state(1, 600_000))
            for _ in range(2):
                with pytest.raises(
                    HepdaskError,
                    match=r"^the checkpoint of epoch 2 cannot be written to .* \(No space left on "
                    r"device\): make room there; those before it are kept$",
                ) as caught:
                    checkpoints.save(2, state(2, 600_000))
                assert not isinstance(caught.value, InputError)
                assert loaded(checkpoints).parts == state(1, 600_000)
                assert len(files(folder)) == 1
            checkpoints.save(2, state(2, 100_000))
            assert loaded(checkpoints).parts == state(2, 100_000)

    def test_leftovers_make_room_first(self, tmp_path: Path) -> None:
        with small_disk(tmp_path) as folder:
            name = module._Name(1, 1, "0" * 16)
            (folder / f".{name.file}.unfinished").write_bytes(bytes(700_000))
            Checkpoints(folder).save(1, state(1, 600_000))
            assert len(files(folder)) == 1

    def test_file_too_large(self, tmp_path: Path) -> None:
        with script(FILL, tmp_path) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "(File too large): make room there; those before it are kept" in said
        assert len(files(tmp_path)) == 1

    def test_no_permission(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "trial")
            checkpoints = Checkpoints(folder)
            checkpoints.save(1, state(1))
            with forbidden(Path(name), 0o555), forbidden(folder, 0o555), without_privileges():
                with pytest.raises(InputError, match=r"\(Permission denied\): give a folder") as e:
                    checkpoints.save(2, state(2))
                self.check(e.value, folder)
                assert loaded(checkpoints).parts == state(1)
                with pytest.raises(InputError, match="cannot be removed"):
                    checkpoints.remove()
                with pytest.raises(InputError, match=r"\(Permission denied\)"):
                    Checkpoints(Path(name) / "other").save(1, {})
            with forbidden(folder, 0o000), without_privileges():
                with pytest.raises(InputError, match=r"^the checkpoints in .* cannot be read") as e:
                    checkpoints.load()
                self.check(e.value, folder)
            assert loaded(checkpoints).parts == state(1)

    def test_a_file_stands_there(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "trial"):
            checkpoints = Checkpoints(folder)
            with pytest.raises(InputError, match=r"\((Not a directory|File exists)\): give"):
                checkpoints.save(1, {})

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
    def test_the_disk_fails_at_the_last_moment(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, state(1))

        def sync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", sync)
            with pytest.raises(HepdaskError, match=os.strerror(number)):
                checkpoints.save(2, state(2))
        assert len(files(tmp_path)) == 1
        assert loaded(checkpoints).epoch == 1

    def test_a_store_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        where = f"memory://{tmp_path.name}"
        checkpoints = Checkpoints(where)
        checkpoints.save(1, state(1))
        padding = module._padding

        def broken(size: int) -> bytes:
            if size == 1 << 16:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            return padding(size)

        with monkeypatch.context() as patched:
            patched.setattr(module, "_padding", broken)
            with pytest.raises(HepdaskError, match=r"\(Connection reset by peer\): look at the"):
                checkpoints.save(2, state(2))
        assert len(fsspec.filesystem("memory").ls(f"/{tmp_path.name}")) == 1
        assert loaded(checkpoints).epoch == 1

    def test_errors_of_a_store_s_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class EndpointError(Exception):
            """As those of botocore, which come from nothing that is known here."""

        def fail(*_: Any, **__: Any) -> Any:
            raise EndpointError("could not connect")

        checkpoints = Checkpoints(f"memory://{tmp_path.name}")
        reference = checkpoints.save(1, state(1))
        store = type(fsspec.filesystem("memory"))
        uses: dict[str, Callable[[], object]] = {
            "makedirs": lambda: checkpoints.save(2, state(2)),
            "open": lambda: checkpoints.read(reference),
            "ls": checkpoints.load,
            "rm_file": checkpoints.remove,
        }
        for name, use in uses.items():
            with monkeypatch.context() as patched:
                patched.setattr(store, name, fail)
                with pytest.raises(HepdaskError, match=r"\(could not connect\): look at the disk"):
                    use()
        assert loaded(checkpoints).epoch == 1

    def test_one_that_cannot_be_read_for_now(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        checkpoints = Checkpoints(tmp_path)
        references = [checkpoints.save(epoch, state(epoch)) for epoch in (1, 2)]
        real, broken = Path.open, {file_of(tmp_path, references[1])}

        def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path in broken:
                raise OSError(errno.EIO, "Input/output error")
            return real(path, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", opened)
            found = loaded(checkpoints)
            sentence = (
                f"the checkpoint of epoch 2 in {tmp_path} cannot be read (Input/output error)"
            )
            assert (found.epoch, found.faults) == (1, (sentence,))
            assert caplog.messages == [f"{sentence}: training goes on from epoch 1"]
            with pytest.raises(HepdaskError, match="Input/output error"):
                checkpoints.read(references[1])
            # Not to be taken for "there is none".
            broken.add(file_of(tmp_path, references[0]))
            with pytest.raises(HepdaskError, match=r"cannot be read \(Input/output error\)"):
                checkpoints.load()
        assert loaded(checkpoints).epoch == 2

    def test_an_old_one_that_cannot_be_removed_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints.save(1, state(1))

        def unlink(path: Path, missing_ok: bool = False) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", unlink)
            checkpoints.save(2, state(2))
        assert len(caplog.messages) == 1
        assert "(Device or resource busy)" in caplog.text
        assert loaded(checkpoints).epoch == 2

    def test_unknown_places(self) -> None:
        with pytest.raises(InputError, match=r"^checkpoints cannot be kept in nosuch://x"):
            Checkpoints("nosuch://x/y")
        fsspec.register_implementation(
            "absent", "no_such_library.Files", errtxt="Install no_such_library", clobber=True
        )
        with pytest.raises(InputError, match="Install no_such_library") as caught:
            Checkpoints("absent://me:secret@host/y")
        assert "secret" not in str(caught.value)

    def test_a_place_that_is_only_read(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="give a folder that may be read and written"):
            Checkpoints("data:,hello").save(1, {})

    def test_passwords_are_not_shown(self) -> None:
        assert module._without_password("ftp://me:secret@host/a@b") == "ftp://host/a@b"

    @pytest.mark.parametrize(
        "name", ["", "a/b", "..", ".a", "a b", "é", "manifest.json", "a" * 101]
    )
    def test_names_of_parts(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="use letters, digits"):
            Checkpoints(tmp_path).save(1, {name: b""})
        assert files(tmp_path) == []

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path)
        with pytest.raises(InputError, match=r"^keep is 0: at least one"):
            Checkpoints(tmp_path, keep=0)
        with pytest.raises(InputError, match=r"^epoch is -1: it counts"):
            checkpoints.save(-1, {})
        with pytest.raises(InputError, match=r'^part "a" of a checkpoint is of type str: give'):
            checkpoints.save(1, {"a": "text"})  # type: ignore[dict-item]
        with pytest.raises(InputError, match=r"^'../x' is no reference of a checkpoint"):
            checkpoints.read("../x")
        assert files(tmp_path) == []

    def test_parts_that_are_no_files(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path / "trial")
        checkpoints.save(1, state(1))
        for path, reason in [(tmp_path / "none", "No such file"), (tmp_path, "Is a directory")]:
            with pytest.raises(InputError, match=f'^part "a" .*{reason}.*: check the name'):
                checkpoints.save(2, {"a": path})
        assert len(files(tmp_path / "trial")) == 1

    def test_a_part_that_shrinks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "part").write_bytes(bytes(100))
        monkeypatch.setattr(module, "_CHUNK", 10)
        header = module._header

        def cut(name: str, size: int) -> bytes:
            os.truncate(tmp_path / "part", 50)
            return header(name, size)

        monkeypatch.setattr(module, "_header", cut)
        with pytest.raises(InputError, match="became shorter while it was saved"):
            Checkpoints(tmp_path / "trial").save(2, {"a": tmp_path / "part"})
        assert files(tmp_path / "trial") == []


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def forbidden(folder: Path, mode: int) -> Iterator[None]:
    folder.chmod(mode)
    try:
        yield
    finally:
        folder.chmod(0o755)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody, if this is root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestKilled:
    def test_at_any_moment(self, tmp_path: Path) -> None:
        """Kill a writer of 8 MB many times; what it said it had saved is there each time."""
        random, size, n_unfinished, said = Random(5), 8_000_000, 0, 0
        for _ in range(40):
            with script(WRITE, tmp_path, size) as process:
                assert process.stdout
                for _ in range(random.randint(1, 3)):
                    said = int(process.stdout.readline())
                time.sleep(random.uniform(0.0, 0.03))
                process.send_signal(signal.SIGKILL)
                rest, _ = process.communicate(timeout=60)
            said = max([said, *map(int, rest.split())])
            found = loaded(Checkpoints(tmp_path))
            assert found.faults == ()
            assert said <= found.epoch <= said + 1
            assert found.parts == state(found.epoch, size)
            left = unfinished(tmp_path)
            # Those of the writers before were cleaned up.
            assert len(left) <= 1
            n_unfinished += len(left)
            assert len(list(tmp_path.glob("*.tar"))) <= 4
        assert n_unfinished

    def test_at_every_step(self, tmp_path: Path) -> None:
        with script(DIE_AT, tmp_path) as process:
            said, _ = process.communicate(timeout=120)
        ends = [line.split() for line in said.splitlines() if line.startswith("end ")]
        assert {end for _, _, end in ends[:-1]} == {str(signal.SIGKILL.value)}
        assert ends[-1][2] == "0"
        assert len(ends) > 50
        for _, number, _ in ends:
            lines = (tmp_path / f"{number}.said").read_text().split()
            self.check_step(tmp_path / number, max([0, *map(int, lines)]))

    def check_step(self, folder: Path, promised: int) -> None:
        found = Checkpoints(folder).load()
        epoch = found.epoch if found else 0
        assert promised <= epoch <= promised + 1
        assert not found or (found.parts, found.faults) == (state(epoch), ())
        # The next one goes on, and cleans up.
        following = Checkpoints(folder)
        following.load()
        following.save(epoch + 1, state(epoch + 1))
        assert loaded(following).epoch == epoch + 1
        assert unfinished(folder) == []
        assert len(list(folder.glob("*.tar"))) <= 2
        following.remove()
        assert not folder.exists()

    def test_an_interrupt_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(size: int) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_padding", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(tmp_path).save(1, state(1))
        assert files(tmp_path) == []


class TestWriters:
    def test_a_lost_worker_and_its_successor(self, where: str) -> None:
        first = Checkpoints(where)
        for epoch in range(1, 6):
            first.save(epoch, state(epoch))
        lost = Checkpoints(where)
        assert loaded(lost, at_most=5).epoch == 5
        for epoch in range(6, 10):
            lost.save(epoch, {"lost": b"%d" % epoch})
        # The lost one kept what it began from: it is lent again from there.
        successor = Checkpoints(where)
        assert loaded(successor, at_most=5).epoch == 5
        successor.save(6, {"new": b"6"})
        for epoch in range(10, 14):
            lost.save(epoch, {"lost": b"%d" % epoch})
            found = loaded(Checkpoints(where), at_most=6)
            assert (found.epoch, found.parts, found.faults) == (6, {"new": b"6"}, ())
        assert loaded(Checkpoints(where)).epoch == 13
        for epoch in range(7, 20):
            successor.save(epoch, {"new": b"%d" % epoch})
            assert loaded(Checkpoints(where), at_most=epoch).parts == {"new": b"%d" % epoch}
        # What the lost one wrote after that is another's, until somebody sees it.
        assert loaded(Checkpoints(where), at_most=13).parts == {"lost": b"13"}
        third = Checkpoints(where)
        assert loaded(third).epoch == 19
        third.save(20, {})
        assert Checkpoints(where).load(at_most=17) is None
        assert loaded(Checkpoints(where), at_most=19).parts == {"new": b"19"}

    def test_of_one_epoch_the_successor_s_counts(self, where: str) -> None:
        lost = Checkpoints(where)
        lost.save(1, state(1))
        lost.save(2, {"lost": b""})
        successor = Checkpoints(where)
        successor.load(at_most=1)
        successor.save(2, {"new": b""})
        assert loaded(Checkpoints(where)).parts == {"new": b""}

    def test_a_writer_at_work_is_not_cleaned_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        padding, ready, go = module._padding, threading.Event(), threading.Event()
        main = threading.get_ident()

        def slow(size: int) -> bytes:
            if threading.get_ident() != main:
                ready.set()
                assert go.wait(60)
            return padding(size)

        monkeypatch.setattr(module, "_padding", slow)
        saved: list[str] = []
        other = threading.Thread(
            target=lambda: saved.append(Checkpoints(tmp_path).save(2, state(2)))
        )
        other.start()
        assert ready.wait(60)
        Checkpoints(tmp_path).save(1, state(1))
        assert len(unfinished(tmp_path)) == 1
        go.set()
        other.join()
        assert loaded(Checkpoints(tmp_path)).reference == saved[0]

    def test_nor_at_the_last_moment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        replace = Path.replace

        def late(path: Path, target: Path) -> Path:
            module._Folder(tmp_path).clean()
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", late)
        Checkpoints(tmp_path).save(1, state(1))
        assert loaded(Checkpoints(tmp_path)).epoch == 1

    def test_a_new_file_without_a_lock_is_not_cleaned_up(self, tmp_path: Path) -> None:
        name = f".{module._Name(1, 1, '0' * 16).file}.unfinished"
        (tmp_path / name).touch()
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, state(1))
        assert name in files(tmp_path)
        checkpoints.remove()
        assert not tmp_path.exists()

    def test_without_locks_leftovers_stay_until_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        name = f".{module._Name(1, 1, '0' * 16).file}.unfinished"
        (tmp_path / name).write_bytes(b"half of it")
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, state(1))
        assert loaded(checkpoints).epoch == 1
        assert name in files(tmp_path)
        checkpoints.remove()
        assert not tmp_path.exists()

    def test_at_once(self, tmp_path: Path) -> None:
        """Four processes write the same and other epochs; each finds what it saved."""
        Checkpoints(tmp_path).save(0, state(0))
        begins = [0, 0, 10, 15]
        with ExitStack() as stack:
            writers = [stack.enter_context(script(RACE, tmp_path, begin)) for begin in begins]
            for writer in writers:
                assert writer.stdout
                assert writer.stdout.readline() == "ready\n"
            for writer in writers:
                assert writer.stdin
                writer.stdin.write("go\n")
                writer.stdin.flush()
            reader = Checkpoints(tmp_path)
            newest = 0
            while any(writer.poll() is None for writer in writers):
                found = loaded(reader)
                assert found.faults == ()
                assert found.parts == state(found.epoch)
                assert found.epoch >= newest
                newest = found.epoch
            last = [writer.communicate(timeout=60)[0].strip() for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * 4
        assert loaded(Checkpoints(tmp_path)).reference == last[-1]
        for reference in last:
            assert reader.read(reference).parts == state(int(reference.split("-")[0]))

    def test_one_that_made_room_while_it_was_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = Checkpoints(tmp_path, keep=1)
        writer.save(1, state(1))
        real, once = Checkpoints._parts, iter([True])

        def parts(self: Checkpoints, name: Any) -> dict[str, bytes]:
            if next(once, False):
                writer.save(2, state(2))
            return real(self, name)

        monkeypatch.setattr(Checkpoints, "_parts", parts)
        found = loaded(Checkpoints(tmp_path))
        assert (found.epoch, found.faults) == (2, ())

    def test_the_newest_that_made_room_is_not_replaced_by_an_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Checkpoints(tmp_path).save(1, {"old": b""})
        writer = Checkpoints(tmp_path, keep=1)
        writer.load()
        writer.save(7, state(7))
        real, once = Checkpoints._parts, iter([True])

        def parts(self: Checkpoints, name: Any) -> dict[str, bytes]:
            if next(once, False):
                writer.save(8, state(8))
            return real(self, name)

        monkeypatch.setattr(Checkpoints, "_parts", parts)
        found = loaded(Checkpoints(tmp_path))
        assert (found.epoch, found.faults) == (8, ())

    def test_a_writer_that_is_always_faster(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = Checkpoints(tmp_path, keep=1)
        writer.save(0, {})
        epochs = count(1)

        def parts(self: Checkpoints, name: Any) -> dict[str, bytes]:
            writer.save(next(epochs), {})
            raise FileNotFoundError(name)

        monkeypatch.setattr(Checkpoints, "_parts", parts)
        with pytest.raises(HepdaskError, match="change faster than they can be read"):
            Checkpoints(tmp_path).load()

    def test_a_name_that_leads_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / module._Name(1, 1, "0" * 16).file).symlink_to(tmp_path / "gone")
        assert Checkpoints(tmp_path).load() is None


class Machine(RuleBasedStateMachine):
    """Writers that come, save, are killed and go, and files that are damaged.

    A model beside it keeps every file that was ever saved, with its content; the files themselves
    are looked at by nobody but the code, which is told nothing of what was damaged.
    """

    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[str, tuple[int, dict[str, bytes]]] = {}
        self.damaged: set[str] = set()
        self.numbers = count()

    @initialize(memory=st.booleans(), keep=st.integers(1, 3))
    def begin(self, memory: bool, keep: int) -> None:
        module.LOG.disabled = True  # it damages too much
        self.keep = keep
        self.memory = memory
        self.store = fsspec.filesystem("memory" if memory else "file")
        if memory:
            self.where, self.path = "memory://machine", "/machine"
            self.store.store.clear()
        else:
            quick = "/dev/shm" if Path("/dev/shm").is_dir() else None
            self.path = self.where = tempfile.mkdtemp(dir=quick)

    def teardown(self) -> None:
        module.LOG.disabled = False
        if hasattr(self, "store"):
            if self.memory:
                self.store.store.clear()
            else:
                shutil.rmtree(self.path, ignore_errors=True)

    def there(self) -> set[str]:
        """Give the references of the files."""
        names = (Path(path).name for path in self.store.find(self.path))
        return {name.removesuffix(".tar") for name in names if name.endswith(".tar")}

    def sound(self, at_most: int | None = None) -> list[str]:
        """Give those that are sound, newest last."""
        return sorted(
            reference
            for reference in self.there() & self.saved.keys() - self.damaged
            if at_most is None or self.saved[reference][0] <= at_most
        )

    @rule(target=writers, at_most=st.none() | st.integers(0, 12), load=st.booleans())
    def come(self, at_most: int | None, load: bool) -> Any:
        """A new writer, which looks where to begin, or does not."""
        writer = Checkpoints(self.where, self.keep)
        if load:
            self.check_load(writer, at_most)
        return writer if load else multiple(writer)

    @rule(writer=writers, at_most=st.none() | st.integers(0, 12))
    def load(self, writer: Checkpoints, at_most: int | None) -> None:
        self.check_load(writer, at_most)

    @rule(writer=writers, epoch=st.integers(0, 12), size=st.sampled_from([0, 10, 3000]))
    def save(self, writer: Checkpoints, epoch: int, size: int) -> None:
        before = set(self.sound())
        begun = writer._loaded
        parts = {"number": b"%d" % next(self.numbers), "filling": bytes(size)}
        reference = writer.save(epoch, parts)
        self.saved[reference] = epoch, parts
        after = set(self.sound())
        assert reference in after
        # What is removed is not newer; what the writer began from stays, and some before it.
        assert all(self.saved[lost][0] <= epoch for lost in before - after)
        assert begun is None or begun.reference not in before - after
        assert writer.read(reference).parts == parts

    @rule(writer=writers, epoch=st.integers(0, 12), share=st.floats(0.0, 0.999))
    def kill(self, writer: Checkpoints, epoch: int, share: float) -> None:
        """A writer is killed while it saves: a part of the file is left, under its first name."""
        file = io.BytesIO()
        module._pack(file, epoch, {"killed": b"x" * 2000}, lambda: None)
        content = file.getvalue()[: int(share * (len(file.getvalue()) - 1600))]
        name = module._Name(epoch, 99, f"{next(self.numbers):016x}")
        if self.memory:
            self.store.pipe_file(f"{self.path}/{name.file}", content)
        else:
            Path(self.path).mkdir(exist_ok=True)
            Path(self.path, f".{name.file}.unfinished").write_bytes(content)

    @precondition(lambda self: self.sound())
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        reference = data.draw(st.sampled_from(self.sound()))
        path = f"{self.path}/{reference}.tar"
        content = bytearray(self.store.cat_file(path))
        if data.draw(st.booleans()):
            content[512] ^= 255  # the first byte of its number
        else:
            del content[data.draw(st.integers(0, len(content) - 2049)) :]
        self.store.pipe_file(path, bytes(content))
        self.damaged.add(reference)

    @rule(writer=writers, data=st.data())
    def refuse(self, writer: Checkpoints, data: st.DataObject) -> None:
        """A save that fails changes nothing."""
        before = self.there()
        with pytest.raises(InputError):
            writer.save(data.draw(st.integers(0, 12)), {"a": b"a", "none": Path("/none")})
        assert self.there() == before

    @rule(writer=writers)
    def remove(self, writer: Checkpoints) -> None:
        writer.remove()
        assert self.store.find(self.path) == []

    def check_load(self, reader: Checkpoints, at_most: int | None) -> None:
        sound = self.sound(at_most)
        found = reader.load(at_most)
        if not sound:
            assert found is None
            return
        assert found
        assert found.reference == sound[-1]
        assert (found.epoch, found.parts) == self.saved[sound[-1]]
        passed = [name for name in self.there() if name > sound[-1]]
        limit = 99 if at_most is None else at_most
        assert len(found.faults) == len([name for name in passed if int(name[:8]) <= limit])

    @invariant()
    def the_newest_sound_one_is_found(self) -> None:
        if hasattr(self, "store"):
            self.check_load(Checkpoints(self.where), None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def test_one_writer_keeps_a_few(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(1, 4):
        checkpoints.save(epoch, state(epoch))
    again = Checkpoints(tmp_path)
    again.load()
    for epoch in range(4, 30):
        again.save(epoch, state(epoch))
    assert [int(name.split("-")[0]) for name in files(tmp_path)] == [3, 28, 29]
    assert caplog.messages == []
