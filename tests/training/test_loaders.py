"""Tensors of torch: the same batches, in this process or made by others."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

import numpy as np
import pytest
from made_up_batches import Made, assert_whole

from hepdask_ml.errors import InputError
from hepdask_ml.training import loaders
from hepdask_ml.training.datasets import Dataset
from hepdask_ml.training.loaders import Loader, tensors_of

torch: Any = pytest.importorskip("torch")

# Later versions of Python warn of what DataLoaders do.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
    # A small machine is told of that.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

STREAM = Made((70, 41), selection=True)


def dataset(**options: Any) -> Dataset:
    return Dataset(STREAM, 8, seed=3, buffer=30, **options)


def events_of(batches: Any) -> list[tuple[int, int]]:
    return [
        event
        for batch in batches
        for event in zip(batch["files"].tolist(), batch["events"].tolist(), strict=True)
    ]


ALL = [(file, event) for file, n in enumerate(STREAM.lengths) for event in range(n) if event % 3]


def test_tensors_share_the_memory_of_the_arrays() -> None:
    [batch, *_] = dataset()
    tensors = tensors_of(batch)
    assert_whole(tensors)
    for name, array in batch["inputs"].items():
        assert isinstance(tensors["inputs"][name], torch.Tensor)
        assert np.shares_memory(tensors["inputs"][name].numpy(), array)
    own = tensors_of(batch, copies=True)["inputs"]["jets"]
    assert own.is_contiguous()
    assert not np.shares_memory(own.numpy(), batch["inputs"]["jets"])


def test_arrays_that_may_not_be_written_to_are_copied() -> None:
    [batch, *_] = dataset()
    batch["labels"].flags.writeable = False
    assert not np.shares_memory(tensors_of(batch)["labels"].numpy(), batch["labels"])


def test_a_loader_gives_the_batches_of_its_data_set() -> None:
    loader = Loader(dataset())
    batches = list(loader)
    for batch in batches:
        assert_whole(batch)
    assert events_of(batches) == events_of(dataset())
    assert loader.state_dict() == {"epoch": 1, "index": 0}


def test_ragged_groups_become_nested_tensors() -> None:
    [plain, *_] = Loader(dataset())
    [nested, *_] = Loader(dataset(), nested=True)
    tracks = nested["inputs"]["tracks"]
    assert tracks.is_nested
    assert tracks.layout == torch.jagged
    assert torch.equal(tracks.values(), plain["inputs"]["tracks"])
    assert torch.equal(tracks.offsets(), plain["offsets"]["tracks"])
    assert not nested["offsets"]


def test_workers_share_the_events_and_an_epoch_goes_on_where_it_was_left() -> None:
    loader = Loader(dataset(), workers=3, context="fork")
    undisturbed = events_of(loader)
    assert sorted(undisturbed) == ALL
    assert loader.state_dict() == {"epoch": 1, "index": 0}
    # Behind the last batch of one worker as well, where the others have more.
    for at in (1, 2, 8):
        loader.dataset.seek(0)
        before = events_of(islice(loader, at))
        again = Loader(dataset(), workers=3, context="fork")
        again.load_state_dict(loader.state_dict())
        assert [*before, *events_of(again)] == undisturbed
    loader.dataset.seek(0)
    list(islice(loader, 1))
    alone = iter(loader.dataset)
    with pytest.raises(InputError, match="of an epoch of 3 workers, and there are 1"):
        next(alone)


def test_steps_are_those_of_all_workers() -> None:
    for steps in (2, 5):
        batches = list(Loader(dataset(steps=steps), workers=2, context="fork"))
        assert [len(batch["events"]) for batch in batches] == [8] * steps


def test_workers_tell_what_they_could_not_read() -> None:
    stream = Made((20, 20, 20), broken=1, unreadable="skip")
    loader = Loader(Dataset(stream, 8), workers=2, context="fork")
    assert {file for file, _ in events_of(loader)} == {0, 2}
    assert loader.dataset.skipped == ("/data/1.root",)
    # Also what was found out behind the last batch.
    late = Dataset(Made((20, 20), broken=1, unreadable="skip"), 10, shuffle=False, prefetch=0)
    assert len(list(Loader(late, workers=1, context="fork"))) == 2
    assert late.skipped == ("/data/1.root",)
    broken = Loader(Dataset(Made((20, 20), broken=1), 8), workers=2, context="fork")
    with pytest.raises(InputError, match=r"^/data/1\.root is damaged: fetch it again$"):
        list(broken)


def test_a_loader_of_torch_takes_a_data_set() -> None:
    data = loaders.TorchDataset(dataset())
    alone = list(torch.utils.data.DataLoader(data, batch_size=None))
    assert events_of(alone) == events_of(dataset())
    assert data.state_dict() == {"epoch": 1, "index": 0}
    data.seek(0)
    several = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(several)
    for batch in batches:
        assert_whole(batch)
    assert sorted(events_of(batches)) == ALL
    data.load_state_dict({"epoch": 4, "index": 0})
    assert data.dataset.epoch == 4


def test_a_number_of_workers_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="-1 workers make no batches"):
        Loader(dataset(), workers=-1)


def test_names_are_those_of_the_module() -> None:
    assert "TorchDataset" in dir(loaders)
    with pytest.raises(AttributeError, match="has no attribute 'Loaders'"):
        _ = loaders.Loaders


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"install hepdask-ml\[train\]"):
        next(iter(Loader(dataset())))
