"""Loaders: the batches of a data set as tensors of torch, made in this process or by others.

`Loader` is the whole way from a `hepdask_ml.training.datasets.Dataset` to a training: it shares
memory with the arrays, has processes make batches where one is too slow, and keeps account of what
it handed out.  `TorchDataset` is what a ``torch.utils.data.DataLoader`` of the user's own takes.

Classes of torch's are made when they are first asked for, since torch need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.training.datasets import batch_of
from hepdask_ml.training.pieces import Mark
from hepdask_ml.training.with_torch import library

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from numpy.typing import NDArray

    from hepdask_ml.training.datasets import Dataset


def __getattr__(name: str) -> Any:
    if name != "TorchDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _torch_dataset()


def __dir__() -> list[str]:
    return sorted([*globals(), "TorchDataset"])


class Loader:
    """Batches of tensors; where it stands is where its data set stands.

    Parameters
    ----------
    dataset : Dataset
        What to load.
    workers : int
        Processes that make batches, each from a part of the events of this rank, with portions of
        its own in its memory; with 0 a thread of this process does.  The order of events depends
        on their number.
    nested : bool
        Give ragged groups as nested tensors, ``(event, item, field)`` with the layout
        ``torch.jagged``, without offsets.
    pin_memory : bool
        Have a thread put batches into memory from which they are quickly brought to a GPU; with
        workers only.
    context : {"fork", "forkserver", "spawn"}, optional
        How worker processes are begun, if not as torch does.

    Attributes
    ----------
    dataset : Dataset
        As given.

    Raises
    ------
    InputError
        If there is a negative number of workers.

    Examples
    --------
    >>> loader = Loader(Dataset(stream, 512))  # doctest: +SKIP
    >>> for epoch in context.epochs(model=model, data=loader):  # doctest: +SKIP
    ...     for batch in loader:
    ...         loss = criterion(model(batch["inputs"]["jets"]), batch["labels"])
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        workers: int = 0,
        nested: bool = False,
        pin_memory: bool = False,
        context: str | None = None,
    ) -> None:
        if workers < 0:
            raise InputError(f"{workers} workers make no batches: give 0 or more")
        self.dataset = dataset
        self._workers = workers
        self._nested = nested
        self._pin_memory = pin_memory
        self._context = context

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go on with the epoch from where the data set stands, to its end.

        Yields
        ------
        dict
            A batch, see `hepdask_ml.training.datasets`.
        """
        batches: Iterator[dict[str, Any]]
        if self._workers:
            batches = self.dataset.handed_out(self._workers, self._course)
        else:
            batches = self.dataset.finished(lambda events: tensors_of(batch_of(events)))
        return map(_nested, batches) if self._nested else batches

    def state_dict(self) -> dict[str, Any]:
        """Give the place of the data set behind the last batch that was handed out."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring the data set to a place."""
        self.dataset.load_state_dict(state)

    def _course(
        self, epoch: int, marks: Sequence[Mark], turn: int
    ) -> Iterator[tuple[int, Mark, dict[str, Any]]]:
        """Have workers make batches, and take them in turn."""
        _look_into(self.dataset)
        over = get_context(self._context).Event()
        loader = library().utils.data.DataLoader(
            _feed()(self.dataset, over, epoch, marks, turn),
            batch_size=None,
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            collate_fn=_as_it_is,
            multiprocessing_context=self._context,
        )
        made = iter(loader)
        try:
            for worker, mark, batch, skipped in made:
                self.dataset.missed(skipped)
                if isinstance(batch, HepdaskError):
                    raise batch
                if mark is not None:
                    yield worker, Mark(*mark), batch
        finally:
            # Workers that are left behind would stay for as long as somebody looks at an error, so
            # each is told to end, and is waited for.
            over.set()
            for _ in made:
                pass


def tensors_of(batch: Mapping[str, Any], *, copies: bool = False) -> dict[str, Any]:
    """Give the arrays of a batch as tensors.

    Parameters
    ----------
    batch : mapping
        As `hepdask_ml.training.datasets.Dataset` gives it.
    copies : bool
        Whether each tensor has to be in one piece of memory of its own.  If not, they share that
        of the arrays.

    Returns
    -------
    dict
        The same, with tensors.

    Raises
    ------
    InputError
        If torch is not installed.
    """
    torch = library()

    def tensor(array: NDArray[Any]) -> Any:
        own = np.array(array, order="C") if copies or not array.flags.writeable else array
        return torch.from_numpy(own)

    return {
        name: {key: tensor(array) for key, array in each.items()}
        if isinstance(each, Mapping)
        else tensor(each)
        for name, each in batch.items()
    }


def _nested(batch: dict[str, Any]) -> dict[str, Any]:
    """Give ragged groups as nested tensors."""
    nest = library().nested.nested_tensor_from_jagged
    made = {
        name: nest(batch["inputs"][name].contiguous(), offsets)
        for name, offsets in batch["offsets"].items()
    }
    return {**batch, "inputs": {**batch["inputs"], **made}, "offsets": {}}


def _look_into(dataset: Dataset) -> Sequence[Any]:
    """Look into all files here, so that not each worker does."""
    return dataset.spans


def _as_it_is(made: Any) -> Any:
    return made


def _worker() -> tuple[int, int] | None:
    """Tell which of how many workers of a DataLoader this process is, if it is one."""
    info = library().utils.data.get_worker_info()
    return None if info is None else (info.id, info.num_workers)


@cache
def _torch_dataset() -> Any:
    torch: Any = library()

    class TorchDataset(torch.utils.data.IterableDataset):  # type: ignore[misc]
        """A data set as torch has them, for a ``DataLoader`` of the user's own.

        It gives whole batches, so the loader is made with ``batch_size=None``.  Its workers share
        the events of the rank.  They make copies of the data set that the loader never sees again:
        call ``seek(epoch)`` before each epoch, as for a sampler of torch's, and use `Loader` where
        a training is to go on in the midst of an epoch.

        Parameters
        ----------
        dataset : Dataset
            What to give.
        """

        __qualname__ = "TorchDataset"

        def __init__(self, dataset: Dataset) -> None:
            super().__init__()
            _look_into(dataset)
            self.dataset = dataset

        def __iter__(self) -> Iterator[dict[str, Any]]:
            """Give the batches of an epoch, those of this worker if there are several."""
            here = _worker()
            if here is None:
                yield from map(tensors_of, self.dataset)
                return
            worker, workers = here
            course = self.dataset.course(self.dataset.epoch, worker=worker, workers=workers)
            for _, events in course:
                yield tensors_of(batch_of(events), copies=True)

        def seek(self, epoch: int) -> None:
            """Go to the beginning of an epoch."""
            self.dataset.seek(epoch)

        def state_dict(self) -> dict[str, Any]:
            """Give the place of the data set in this process."""
            return self.dataset.state_dict()

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            """Bring the data set in this process to a place."""
            self.dataset.load_state_dict(state)

    return TorchDataset


@cache
def _feed() -> Any:
    torch: Any = library()

    class _Feed(torch.utils.data.IterableDataset):  # type: ignore[misc]
        """What the workers of a `Loader` go through.

        A ``DataLoader`` takes a batch of each worker in turn, the first one first, and leaves out
        those that have no more.  So the worker whose turn it is has to be its first one.
        """

        def __init__(
            self, dataset: Dataset, over: Event, epoch: int, marks: Sequence[Mark], turn: int
        ) -> None:
            super().__init__()
            self._dataset, self._over = dataset, over
            self._epoch, self._marks, self._turn = epoch, marks, turn

        def __iter__(self) -> Iterator[tuple[int, Mark | None, Any, Sequence[Any]]]:
            here, workers = _worker() or (0, 1)
            worker = (here + self._turn) % workers
            data = self._dataset
            give = partial(_given, data, worker)
            course = data.course(self._epoch, self._marks[worker], worker=worker, workers=workers)
            try:
                for mark, events in course:
                    if self._over.is_set():
                        break
                    yield give(mark, tensors_of(batch_of(events), copies=True))
            except HepdaskError as error:
                # As it is: torch would put the whole traceback into its words.
                yield give(None, error)
            # What was skipped behind the last batch has to be told as well.
            yield give(None, None)

        def __reduce__(self) -> tuple[Any, ...]:
            return _fed, (self._dataset, self._over, self._epoch, self._marks, self._turn)

    return _Feed


def _fed(*given: Any) -> Any:
    return _feed()(*given)


def _given(
    dataset: Dataset, worker: int, mark: Mark | None, batch: Any
) -> tuple[int, Mark | None, Any, Sequence[Any]]:
    return worker, mark, batch, dataset.skipped
