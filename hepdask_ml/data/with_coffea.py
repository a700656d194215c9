"""Events in the shape that coffea gives them: the one door to coffea, which need not be there.

Its schemas make collections of branches (``events.Jet.pt``), with the methods of vectors and the
links between them.  Columns are lazy: a branch is read when it is touched, and at no other time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from typing import Any

from hepdask_ml.config import nearest
from hepdask_ml.data.forms import Look, branches_of, look_at, where_of
from hepdask_ml.data.sources import Source
from hepdask_ml.data.with_uproot import library, readable, tree_of
from hepdask_ml.errors import InputError, words

TREES = {"NanoAODSchema": "Events", "PHYSLITESchema": "CollectionTree"}
"""The tree that each kind of file has its events in."""


def nanoevents() -> Any:
    """Import coffea's events.

    Returns
    -------
    module
        ``coffea.nanoevents``.

    Raises
    ------
    InputError
        If it is not installed, or is one without lazy columns.
    """
    try:
        module = import_module("coffea.nanoevents")
    except ModuleNotFoundError:
        raise InputError(
            "events with a schema are made by coffea: install hepdask-ml[data]"
        ) from None
    if "preload" not in signature(module.NanoEventsFactory.from_root).parameters:
        raise InputError("this coffea has no lazy columns: install coffea>=2025.9")
    return module


@dataclass(frozen=True, slots=True)
class Nano:
    """Events as coffea has them, with a schema.

    Attributes
    ----------
    schema : str
        ``"nanoaod"``, ``"physlite"``, ``"base"``, or whatever else coffea has: ``BaseSchema``.
    branches : tuple of str
        Those that are read with the events, in one request, names or patterns with ``*``: if a copy
        of the file fails, the next one is asked.  All others are lazy; they are read from the same
        copy, which stays open, when they are touched, and if it fails then, uproot's error comes.

    Raises
    ------
    InputError
        If there is no such schema.

    Examples
    --------
    >>> from hepdask_ml.data.streams import events
    >>> stream = events("nano.root", form=Nano("nanoaod", ("Jet_pt",)))  # doctest: +SKIP
    >>> next(iter(stream)).Jet.pt  # doctest: +SKIP
    """

    schema: str = "nanoaod"
    branches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.schema, str):
            raise InputError(f"schema is {self.schema!r:.60}: give the name of one of coffea's")
        made = nanoevents()
        known = {name.removesuffix("Schema"): name for name in dir(made) if "Schema" in name}
        spelt = {name.casefold(): name for name in known}
        name = spelt.get(self.schema.removesuffix("Schema").casefold())
        if name is None:
            near = nearest(self.schema, list(known)) or [f"there is {', '.join(known)}"]
            raise InputError(f'coffea has no schema "{self.schema}": {near[0]}')
        object.__setattr__(self, "schema", known[name])
        object.__setattr__(self, "branches", tuple(self.branches))

    def look(self, source: Source, url: str, **options: Any) -> Look:
        """Look into a file, as `data.forms.Looks` has it."""
        return look_at(self._with_tree(source), url, self.branches, **options)

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        """Tell how many events there are, as `data.forms.Form` has it."""
        return self.look(source, url, **options).n_events

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Read events part by part, as `data.forms.Form` has it."""
        source = self._with_tree(source)
        with readable(url):
            # Not in a with: lazy columns are read later, and close the file when they are gone.
            file = library().open({url: None}, **options)
        tree = tree_of(file, source.tree, url)
        where = where_of(tree, url)
        preload = self._preload(tree, where)
        for begin in range(start, stop, size):
            end = min(begin + size, stop)
            with readable(f"{where}, events {begin} to {end},"), self._fitting(where):
                part = self._events(source, file, tree, begin, end, preload)
            yield end, part

    def _events(
        self,
        source: Source,
        file: Any,
        tree: Any,
        start: int,
        stop: int,
        preload: frozenset[str],
    ) -> Any:
        made = nanoevents()
        return made.NanoEventsFactory.from_root(
            file,
            treepath=tree.object_path.partition(";")[0],
            mode="virtual",
            entry_start=start,
            entry_stop=stop,
            schemaclass=getattr(made, self.schema),
            preload=preload or None,
            # As a processor of coffea finds them.
            metadata={
                "dataset": source.dataset,
                "filename": file.file_path,
                "treename": tree.name,
                "entrystart": start,
                "entrystop": stop,
                "fileuuid": str(file.file.uuid),
                **source.metadata,
            },
        ).events()

    @contextmanager
    def _fitting(self, where: str) -> Iterator[None]:
        """Say that a file lacks what its schema cannot do without."""
        try:
            yield
        except RuntimeError as error:
            raise InputError(
                f"{where} does not fit coffea's {self.schema} ({words(error)}): choose another "
                "schema, or keep such branches"
            ) from None

    def _preload(self, tree: Any, where: str) -> frozenset[str]:
        """Name the branches to be read at once, with those that count their items."""
        names = branches_of(tree, self.branches, where)
        with readable(where):
            counters = {
                counter.name
                for name in names
                if (counter := getattr(tree[name], "count_branch", None)) is not None
            }
        return frozenset(counters.union(names))

    def _with_tree(self, source: Source) -> Source:
        """Name the tree of such files, if nobody else did."""
        return replace(source, tree=source.tree or TREES.get(self.schema))
