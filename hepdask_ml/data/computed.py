"""Fields of features that have to be calculated: their numbers, for the events of a tree.

Arrays of awkward are made of the branches that the fields need, and of no others, for some ten
thousand events at a time: what a batch is made of is cut from these, so that small batches cost no
more than large ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hepdask_ml.data.jagged import items_of
from hepdask_ml.data.with_uproot import UnreadableFile, library, readable
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from hepdask_ml.data.features import Field
    from hepdask_ml.data.jagged import Items


def computed(
    tree: Any, fields: Mapping[Field, str], start: int, stop: int, *, step: int, threads: int = 1
) -> Iterator[tuple[int, dict[Field, Items]]]:
    """Calculate fields for a range of events, step by step.

    Parameters
    ----------
    tree : TTree or RNTuple
        What uproot gives; its file stays open meanwhile.
    fields : mapping of Field to str
        What to calculate, with the file and what it is there, for messages.
    start, stop : int
        Events of the tree, half open.
    step : int
        Events that are read at a time.
    threads : int
        So many decompress side by side.

    Yields
    ------
    first : int
        The first event of a step.
    found : dict of Field to Items
        A number, or a list of numbers, for each of its events.

    Raises
    ------
    InputError
        If a branch has no numbers, or an expression cannot be calculated of them.
    UnreadableFile
        If a branch is missing, or the file cannot be read there.
    """
    where = f"{tree.file.file_path}:{tree.name}"
    names = tuple(dict.fromkeys(name for each in fields for name in each.branches))
    for first, arrays in _arrays(tree, names, start, stop, step, threads, where):
        yield first, calculated(fields, arrays, min(first + step, stop) - first, where)


def calculated(
    fields: Mapping[Field, str], arrays: Mapping[str, Any], n_events: int, where: str
) -> dict[Field, Items]:
    """Calculate fields of arrays that are at hand.

    Parameters
    ----------
    fields : mapping of Field to str
        What to calculate, with what it is, for messages.
    arrays : mapping of str to array
        Of awkward or numpy, by the names of branches: all that the fields need.
    n_events : int
        Of how many events.
    where : str
        Where the arrays are from, for messages.

    Returns
    -------
    dict of Field to Items
        A number, or a list of numbers, for each event.

    Raises
    ------
    InputError
        If an array has no numbers, or an expression cannot be calculated of them.
    """
    texts = [each for each in fields if each.call is None]
    known = {
        name: items_of(arrays[name], f'{where}, branch "{name}"')
        for name in dict.fromkeys(name for each in texts for name in each.branches)
    }
    return {each: _found(each, arrays, known, n_events, what) for each, what in fields.items()}


def _found(
    field: Field,
    arrays: Mapping[str, Any],
    known: Mapping[str, Items],
    n_events: int,
    what: str,
) -> Items:
    try:
        found = field.items(known if field.call is None else arrays)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    n_found = len(found.values if found.offsets is None else found.offsets[1:])
    if n_found != n_events:
        raise InputError(
            f"{what} gives {n_found} values for {n_events} events: give one number or list for "
            "each event"
        )
    return found


def _arrays(
    tree: Any,
    names: tuple[str, ...],
    start: int,
    stop: int,
    step: int,
    threads: int,
    where: str,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read branches as arrays of awkward, by name."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
        parts: Iterator[Any] = iter(())
        if names:
            with readable(where):
                parts = tree.iterate(
                    list(names),
                    step_size=step,
                    entry_start=start,
                    entry_stop=stop,
                    decompression_executor=pool,
                    library="ak",
                    how=dict,
                )
        for first in range(start, stop, step):
            last = min(first + step, stop)
            part = _next(parts, f"{where}, events {first} to {last},") if names else {}
            found = {name: _named(part, name) for name in names}
            short = [name for name, array in found.items() if len(array) != last - first]
            if short:
                raise UnreadableFile(
                    f'{where}, branch "{short[0]}", has {len(found[short[0]])} of the events '
                    f"{first} to {last}: make or fetch the file again"
                )
            yield first, found


def _next(parts: Iterator[Any], what: str) -> Any:
    with readable(what):
        try:
            part = next(parts, None)
        except library().interpretation.objects.CannotBeAwkward as error:
            raise InputError(
                f"{what} hold no numbers in a branch ({error}): leave it out of the features"
            ) from None
    if part is None:
        raise UnreadableFile(f"{what} are not there: make or fetch the file again")
    return part


def _named(part: Mapping[str, Any], name: str) -> Any:
    """Find a branch among arrays; fields within fields of an RNTuple come as records."""
    if name in part:
        return part[name]
    outer, _, inner = name.partition(".")
    found = part[outer]
    for each in inner.split("."):
        found = found[each]
    return found
