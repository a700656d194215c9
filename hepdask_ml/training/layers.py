"""Layers of torch for events with empty slots, whose NaN reach neither outputs nor gradients.

A *mask* is true where there is something: ``(event, slot)`` for items, or a truth value for each
number.  An empty slot counts as nothing in the layer that meets it first, here a `MaskedLinear`,
and in a sum over items, here that of `DeepSets`.  A NaN times zero would still be NaN, also in a
gradient, so empty slots are replaced and never multiplied away.

The classes are made when one of them is first asked for, since torch need not be installed.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError
from hepdask_ml.training.with_torch import library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POOLINGS = ("sum", "mean", "max")
"""How `DeepSets` joins the items of an event."""

_CLASSES = ("MLP", "DeepSets", "MaskedLinear")


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return {"MLP": _mlp, "DeepSets": _deep_sets, "MaskedLinear": _masked_linear}[name]()


def __dir__() -> list[str]:
    return sorted([*globals(), *_CLASSES])


def mlp(
    n_inputs: int, n_outputs: int = 1, widths: Sequence[int] = (64, 64), *, dropout: float = 0.0
) -> Any:
    """Make a network of full layers whose first one takes a mask.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Numbers that go in, and that come out.
    widths : sequence of int
        Of the hidden layers; each is followed by a rectifier.
    dropout : float
        Part of the hidden units that is dropped in training.

    Returns
    -------
    MLP
        A module, called with the numbers, ``(..., n_inputs)``, and their mask if there is one; see
        `MaskedLinear`.

    Raises
    ------
    InputError
        If a layer would have no unit, or torch is not installed.

    Examples
    --------
    >>> x, mask = flattened(batch)  # doctest: +SKIP
    >>> model = mlp(x.shape[1])  # doctest: +SKIP
    >>> scores = model(x, mask)  # doctest: +SKIP
    """
    sizes = [n_inputs, *widths, n_outputs]
    if min(sizes) < 1:
        shown = ", ".join(map(str, sizes))
        raise InputError(f"a network with layers of {shown} units is none: give each one or more")
    return _mlp()(sizes, dropout)


def flattened(batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """Put all numbers of each event in a row, for a network that takes events as a whole.

    Parameters
    ----------
    batch : mapping
        As `hepdask_ml.training.loaders.TorchDataset` gives it.

    Returns
    -------
    numbers : (event, number) tensor
        Those of flat groups, padded groups and images, in the order of the batch.
    mask : (event, number) bool tensor
        Which of them are those of an item, or of the event.  A value that its file lacks is
        masked as well.

    Raises
    ------
    InputError
        If there are ragged groups, which have no row of numbers, or no group at all.
    """
    torch = library()
    for name in batch.get("offsets", {}):
        raise InputError(f'group "{name}" is ragged: pad it, or give it to DeepSets')
    if not batch["inputs"]:
        raise InputError("the batch has no inputs: give groups in the features")
    masks = batch.get("masks", {})
    numbers, there = [], []
    for name, values in batch["inputs"].items():
        known = torch.isfinite(values)
        if name in masks:
            known = known & masks[name].unsqueeze(-1)
        numbers.append(values.flatten(1))
        there.append(known.flatten(1))
    return torch.cat(numbers, 1), torch.cat(there, 1)


def _of_numbers(torch: Any, x: Any, mask: Any) -> Any:
    """Give a mask with a truth value for each number."""
    if mask is None:
        return ~torch.isnan(x)
    if mask.shape == x.shape:
        return mask
    if mask.shape == x.shape[:-1]:
        return mask.unsqueeze(-1).expand_as(x)
    raise InputError(
        f"the mask is of shape {tuple(mask.shape)}, and the numbers are of shape {tuple(x.shape)}: "
        "give a truth value for each item, or for each number"
    )


@cache
def _masked_linear() -> Any:
    torch: Any = library()

    class MaskedLinear(torch.nn.Linear):  # type: ignore[misc]
        r"""A linear layer that leaves out what is masked.

        .. math:: y_j = b_j + \sum_{i \in \mathrm{mask}} W_{ji} x_i

        An item of which nothing is there gives zeros, without the bias.

        Parameters
        ----------
        in_features, out_features, bias, device, dtype
            As for ``torch.nn.Linear``, whose parameters it has.
        """

        __qualname__ = "MaskedLinear"

        def forward(self, x: Any, mask: Any = None) -> Any:
            """Apply the layer.

            Parameters
            ----------
            x : (..., in_features) tensor
                Whatever stands in masked places, NaN included.
            mask : (...,) or (..., in_features) bool tensor, optional
                What is there; if not given, all but NaN.

            Returns
            -------
            (..., out_features) tensor
                Zero where an item is masked.

            Raises
            ------
            InputError
                If the mask is of another shape.
            """
            known = _of_numbers(torch, x, mask)
            zero = x.new_zeros(())
            y = super().forward(torch.where(known, x, zero))
            return torch.where(known.any(-1, keepdim=True), y, y.new_zeros(()))

    return MaskedLinear


@cache
def _mlp() -> Any:
    torch: Any = library()

    class MLP(torch.nn.Module):  # type: ignore[misc]
        """Full layers with rectifiers between them; made by `mlp`."""

        __qualname__ = "MLP"

        def __init__(self, sizes: Sequence[int], dropout: float = 0.0) -> None:
            super().__init__()
            self.first = _masked_linear()(sizes[0], sizes[1])
            rest: list[Any] = []
            for n_in, n_out in pairwise(sizes[1:]):
                rest.append(torch.nn.ReLU())
                if dropout:
                    rest.append(torch.nn.Dropout(dropout))
                rest.append(torch.nn.Linear(n_in, n_out))
            self.rest = torch.nn.Sequential(*rest)

        def forward(self, x: Any, mask: Any = None) -> Any:
            """Apply the network; parameters are as for `MaskedLinear`."""
            return self.rest(self.first(x, mask))

    return MLP


@cache
def _deep_sets() -> Any:
    torch: Any = library()

    class DeepSets(torch.nn.Module):  # type: ignore[misc]
        r"""A network of sets, to which the order of items means nothing.

        .. math:: f(X) = \rho\Big(\mathop{\mathrm{pool}}_{x \in X} \phi(x)\Big)

        Items are padded with a mask, or ragged with offsets; both give the same.  An event without
        items pools to zeros.

        Parameters
        ----------
        phi : torch.nn.Module
            Of one item, ``(..., field)`` to ``(..., latent)``; it has to treat each alone, so that
            a batch normalisation has no place in it.
        rho : torch.nn.Module
            Of one event, ``(event, latent)`` to ``(event, output)``.
        pooling : {"sum", "mean", "max"}
            How items are joined.

        Raises
        ------
        InputError
            If the pooling is another one.

        References
        ----------
        M. Zaheer et al., Deep Sets, NeurIPS 2017, theorem 2.

        Examples
        --------
        >>> model = DeepSets(mlp(3, 32), mlp(32, 1))  # doctest: +SKIP
        >>> model(batch["inputs"]["jets"], batch["masks"]["jets"])  # doctest: +SKIP
        """

        __qualname__ = "DeepSets"

        def __init__(self, phi: Any, rho: Any, pooling: str = "sum") -> None:
            super().__init__()
            if pooling not in POOLINGS:
                raise InputError(f"pooling is {pooling!r}: it may be {', '.join(POOLINGS)}")
            self.phi, self.rho, self.pooling = phi, rho, pooling

        def forward(self, x: Any, mask: Any = None, *, offsets: Any = None) -> Any:
            """Apply the network.

            Parameters
            ----------
            x : tensor
                Padded items ``(event, slot, field)``; ragged ones ``(item, field)``; or a nested
                tensor with the layout ``torch.jagged``.
            mask : (event, slot) bool tensor, optional
                Slots with an item; if not given, those with a number.
            offsets : (event + 1,) int64 tensor, optional
                Where the items of each event begin: for ragged items.

            Returns
            -------
            (event, output) tensor
                Of each event.
            """
            if x.is_nested:
                x, offsets = x.values(), x.offsets()
            if offsets is not None:
                return self.rho(_segments(torch, self.phi(x), offsets, self.pooling))
            known = ~torch.isnan(x).all(-1) if mask is None else mask
            items = torch.where(known.unsqueeze(-1), x, x.new_zeros(()))
            return self.rho(_slots(torch, self.phi(items), known, self.pooling))

        def extra_repr(self) -> str:
            """Show how items are joined."""
            return f"pooling={self.pooling!r}"

    return DeepSets


def _slots(torch: Any, items: Any, known: Any, pooling: str) -> Any:
    """Join ``(event, slot, latent)`` over the slots with an item."""
    there = known.unsqueeze(-1)
    if pooling == "max":
        highest = torch.where(there, items, items.new_full((), -torch.inf)).amax(1)
        return torch.where(known.any(1, keepdim=True), highest, items.new_zeros(()))
    total = torch.where(there, items, items.new_zeros(())).sum(1)
    if pooling == "sum":
        return total
    return total / known.sum(1, keepdim=True).clamp(min=1)


def _segments(torch: Any, items: Any, offsets: Any, pooling: str) -> Any:
    """Join ``(item, latent)`` over the items of each event."""
    lengths = offsets.diff()
    events = torch.arange(len(lengths), device=items.device)
    event = torch.repeat_interleave(events, lengths).unsqueeze(-1).expand_as(items)
    pooled = items.new_zeros((len(lengths), items.shape[1]))
    how = {"sum": "sum", "mean": "mean", "max": "amax"}[pooling]
    # Without itself: the zeros are for events without items alone.
    return pooled.scatter_reduce(0, event, items, how, include_self=False)
