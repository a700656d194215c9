from __future__ import annotations

import struct
from importlib import import_module
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
from hpo.made_up_ledgers import fail, loss, search_ledger, work

from hepdask_ml.hpo import with_tensorboard
from hepdask_ml.hpo.event_file import FAILURE, NAME, SUCCESS, append, ended, head, scalar, started
from hepdask_ml.hpo.with_tensorboard import follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with search_ledger(tmp_path / "jets.ledger") as made:
        for number in range(3):
            work(made, number)
        work(made, 3, stop=2)
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*"))
    return {str(each.relative_to(folder)): each.read_bytes() for each in files if each.is_file()}


def records(data: bytes) -> list[bytes]:
    """The messages of a file, as the format has them."""
    found = []
    while data:
        (size,) = struct.unpack_from("<Q", data)
        found.append(data[12 : 12 + size])
        data = data[16 + size :]
    return found


def test_a_record_is_what_the_format_says(tmp_path: Path) -> None:
    # Written by TensorBoard's own writer.
    expected = bytes.fromhex(
        "1800000000000000a37f4b220900000000000008401a0d627261696e2e4576656e743a32b398ebfd"
    )
    append(tmp_path / NAME, [head(3.0)])
    assert (tmp_path / NAME).read_bytes() == expected


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "run" / NAME
    events = [head(1.0), scalar("loss", 0.5, 0, 2.0), scalar("loss", nan, 1, 3.0)]
    assert append(path, events) == 3
    before = path.read_bytes()
    assert append(path, [head(7.0), scalar("loss", 0.5, 0, 8.0)]) == 0
    assert path.read_bytes() == before
    assert append(path, [*events, scalar("loss", 0.5, 2, 4.0), scalar("auc", 0.5, 0, 4.0)]) == 2
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize("left", [1, 8, 11, 12, 20, -1])
def test_what_a_killed_writer_left_is_cut_off(tmp_path: Path, left: int) -> None:
    path = tmp_path / NAME
    append(path, [head(1.0), scalar("loss", 0.5, 0, 2.0)])
    whole = path.read_bytes()
    append(path, [scalar("loss", 0.25, 1, 3.0)])
    all_three = path.read_bytes()
    path.write_bytes(all_three[: len(whole) + left] if left > 0 else all_three[:left])
    assert append(path, [head(1.0)]) == 0
    assert path.read_bytes() == whole
    assert append(path, [scalar("loss", 0.25, 1, 3.0)]) == 1
    assert path.read_bytes() == all_three


def test_what_is_damaged_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / NAME
    append(path, [head(1.0)])
    whole = path.read_bytes()
    append(path, [scalar("loss", 0.5, 0, 2.0)])
    for at in (len(whole), len(whole) + 9, len(whole) + 14, len(whole) + 30):
        damaged = bytearray(path.read_bytes())
        damaged[at] ^= 1
        path.write_bytes(damaged)
        append(path, [])
        assert path.read_bytes() == whole
        append(path, [scalar("loss", 0.5, 0, 2.0)])


def test_a_search_is_a_folder_with_one_for_each_trial(ledger: Ledger, tmp_path: Path) -> None:
    board = follower(str(tmp_path / "runs"))
    board.follow(ledger)
    home = f"jets-{ledger.campaign[:8]}"
    assert list(contents(tmp_path / "runs")) == [
        f"{home}/{NAME}",
        *(f"{home}/trial-000{number}/{NAME}" for number in range(4)),
    ]


def test_segments_are_folders(tmp_path: Path) -> None:
    with search_ledger(segments=("barrel", "..")) as ledger:
        work(ledger, 0, segment="barrel")
        work(ledger, 0, segment="..")
        follower(str(tmp_path / "runs")).follow(ledger)
        home = f"search-{ledger.campaign[:8]}"
    folders = {name.removesuffix(f"/{NAME}") for name in contents(tmp_path / "runs")}
    assert folders == {home, f"{home}/barrel/trial-0000", f"{home}/_/trial-0000"}


def test_following_again_adds_nothing(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = follower(str(tmp_path / "runs"))
    board.follow(ledger)
    before = contents(tmp_path / "runs")
    with monkeypatch.context() as context:
        context.delattr(with_tensorboard, "append")  # what it knows to be there it does not open
        board.follow(ledger)
    follower(str(tmp_path / "runs")).follow(ledger)
    assert contents(tmp_path / "runs") == before


def test_pieces_make_the_same_as_the_whole(ledger: Ledger, tmp_path: Path) -> None:
    board = follower(str(tmp_path / "pieces"))
    board.follow(ledger)
    work(ledger, 3, stop=3)
    board.follow(ledger)
    work(ledger, 3)
    fail(ledger, 4)
    follower(str(tmp_path / "pieces")).follow(ledger)
    follower(str(tmp_path / "whole")).follow(ledger)
    name = f"jets-{ledger.campaign[:8]}/trial-0003/{NAME}"
    pieces, whole = (
        {record[9:] for record in records(contents(tmp_path / each)[name])}
        for each in ("pieces", "whole")
    )
    # Values of the objective were told on the way, too.
    assert whole < pieces
    assert len(pieces - whole) == 2


def test_tensorboard_reads_what_was_written(ledger: Ledger, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fail(ledger, 4)
    follower(str(tmp_path / "runs")).follow(ledger)
    board = import_module("tensorboard.backend.event_processing.plugin_event_multiplexer")
    runs = board.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "runs"))
    runs.Reload()
    home = f"jets-{ledger.campaign[:8]}"
    assert set(runs.Runs()) == {home, *(f"{home}/trial-000{number}" for number in range(5))}

    def points(run: str, tag: str) -> list[Any]:
        told = runs.Tensors(run, tag)
        return [(each.step, each.tensor_proto.float_val[0]) for each in told]

    for number, epochs in enumerate((4, 4, 4, 2)):
        run = f"{home}/trial-000{number}"
        expected = [(epoch, pytest.approx(loss(number, epoch))) for epoch in range(epochs)]
        assert points(run, "loss") == expected
        assert points(run, "objective/loss") == [(epochs, expected[-1][1])]
        assert points(run, "time/samples_per_s") == [(epoch, 4000.0) for epoch in range(epochs)]
    assert points(home, "best/loss") == [(4, 0.25)]

    hparams = import_module("tensorboard.plugins.hparams.metadata")

    def about(number: int, what: str) -> Any:
        run = f"{home}/trial-000{number}"
        content = runs.SummaryMetadata(run, f"_hparams_/session_{what}_info").plugin_data.content
        return getattr(hparams, f"parse_session_{what}_info_plugin_data")(content)

    said = about(1, "start").hparams
    assert said["lr"].number_value == 0.01
    assert said["name [a.u.]"].string_value == "relu"
    assert said["flag"].bool_value is False
    assert said["flag"].HasField("bool_value")
    assert about(1, "end").status == SUCCESS
    assert about(4, "end").status == FAILURE
    with pytest.raises(KeyError):
        about(3, "end")


def test_numbers_of_any_size_are_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    values = [0.0, -1.5, 1e300, -1e300, inf, nan]
    steps = [0, 1, 127, 128, 300, 2**40]
    append(
        tmp_path / NAME,
        [
            head(1.0),
            started({"ä": None, "list": [1, 2], "long": "x" * 1000}, "ü", 1.0),
            *(scalar("x", value, step, 2.5) for value, step in zip(values, steps, strict=True)),
            ended(SUCCESS, 3.0),
        ],
    )
    loader = import_module("tensorboard.backend.event_processing.event_file_loader")
    first, about, *told, _ = loader.RawEventFileLoader(str(tmp_path / NAME)).Load()
    events = import_module("tensorboard.compat.proto.event_pb2")
    assert events.Event.FromString(first).file_version == "brain.Event:2"
    assert b"x" * 1000 in about
    found = [events.Event.FromString(each) for each in told]
    assert [each.step for each in found] == steps
    assert [each.wall_time for each in found] == [2.5] * 6
    expected = [0.0, -1.5, inf, -inf, inf, nan]
    assert [each.summary.value[0].simple_value for each in found] == pytest.approx(
        expected, nan_ok=True
    )
