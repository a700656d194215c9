"""Scalers: each field of a tensor shifted and stretched to a common range, as a scan found it.

A scaler is a *centre* and a *scale* for each field; it maps ``x`` to ``(x - centre) / scale``, in
place.  What is missing, or has no item in its slot, is NaN before and after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from hepdask_ml.data.stacks import Values
    from hepdask_ml.data.summaries import Summary

SCALINGS = {
    "standard": "mean 0, standard deviation 1",
    "minmax": "the lowest number to 0, the highest to 1",
    "robust": "the median to 0, and a distance of 1 between the quartiles",
}
"""Ways to choose centre and scale, and what a field becomes."""

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Scaler:
    """Centre and scale of the fields of one tensor.

    Attributes
    ----------
    kind : str
        One of `SCALINGS`: how they were chosen.
    centre, scale : tuple of float
        By field; no scale is zero.

    Raises
    ------
    InputError
        If they are no such numbers.
    """

    kind: str
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", tuple(float(each) for each in self.centre))
        object.__setattr__(self, "scale", tuple(float(each) for each in self.scale))
        if len(self.centre) != len(self.scale):
            raise InputError(
                f"a scaler has {len(self.centre)} centres and {len(self.scale)} scales: each field "
                "has one of both"
            )
        wrong = [pair for pair in zip(self.centre, self.scale, strict=True) if not _usable(*pair)]
        if wrong:
            centre, scale = wrong[0]
            raise InputError(
                f"a scaler has centre {centre:g} and scale {scale:g}: both must be numbers that a "
                "float32 holds, and the scale not zero"
            )

    @classmethod
    def fitted(cls, kind: str, fields: Mapping[str, Summary]) -> Scaler:
        """Choose centre and scale by what was seen.

        Parameters
        ----------
        kind : {"standard", "minmax", "robust"}
            How.
        fields : mapping of str to Summary
            By name, in the order of the tensor.  A field that is always the same becomes zero; one
            with equal quartiles keeps its unit in "robust".

        Returns
        -------
        Scaler
            Of these fields.

        Raises
        ------
        InputError
            If there is no such kind, or a field has no numbers, or some that are too large.

        Examples
        --------
        >>> from hepdask_ml.data.summaries import Summary
        >>> Scaler.fitted("minmax", {"pt": Summary.of([20.0, 60.0])})
        Scaler(kind='minmax', centre=(20.0,), scale=(40.0,))
        """
        if kind not in SCALINGS:
            near = nearest(kind, list(SCALINGS)) or [f"choose from {', '.join(SCALINGS)}"]
            raise InputError(f'"{kind}" is no way to scale: {near[0]}')
        pairs = [_centre_and_scale(kind, name, seen) for name, seen in fields.items()]
        return cls(kind, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))

    def apply(self, planes: Values) -> None:
        """Scale a tensor, in place.

        Parameters
        ----------
        planes : (field, ...) array of float
            Field-major: events, slots or items follow.

        Raises
        ------
        InputError
            If it has another number of fields.
        """
        self._check(planes)
        for plane, centre, scale in zip(planes, self.centre, self.scale, strict=True):
            np.subtract(plane, centre, out=plane)
            np.divide(plane, scale, out=plane)

    def undo(self, planes: Values) -> None:
        """Give a tensor its own range again, in place: the inverse of `apply`, up to rounding.

        Parameters
        ----------
        planes : (field, ...) array of float
            Field-major, as for `apply`.

        Raises
        ------
        InputError
            If it has another number of fields.
        """
        self._check(planes)
        for plane, centre, scale in zip(planes, self.centre, self.scale, strict=True):
            np.multiply(plane, scale, out=plane)
            np.add(plane, centre, out=plane)

    def _check(self, planes: Values) -> None:
        if len(planes) != len(self.centre):
            raise InputError(
                f"a tensor has {len(planes)} fields, and its scaler {len(self.centre)}: fit the "
                "scaler to the same features"
            )


@dataclass(frozen=True, slots=True)
class Scalers:
    """The scalers of a set of features.

    Attributes
    ----------
    groups : mapping of str to Scaler
        By tensor; one that is not there stays as it is.
    """

    groups: Mapping[str, Scaler] = field(default_factory=dict)

    def apply(self, name: str, planes: Values) -> None:
        """Scale a tensor, in place, if there is a scaler for it.

        Parameters
        ----------
        name : str
            Of the tensor.
        planes : (field, ...) array of float
            Field-major.

        Raises
        ------
        InputError
            If it has another number of fields than its scaler.
        """
        if name in self.groups:
            self.groups[name].apply(planes)

    def undo(self, name: str, planes: Values) -> None:
        """Give a tensor its own range again, in place.

        Parameters
        ----------
        name : str
            Of the tensor.
        planes : (field, ...) array of float
            Field-major.

        Raises
        ------
        InputError
            If it has another number of fields than its scaler.
        """
        if name in self.groups:
            self.groups[name].undo(planes)

    @property
    def digest(self) -> str:
        """Names the numbers: equal scalers have equal digests, whatever the order of tensors."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`.
        """
        return {
            name: {"kind": each.kind, "centre": list(each.centre), "scale": list(each.scale)}
            for name, each in self.groups.items()
        }

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Scalers:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Scalers
            The same.
        """
        return cls(
            {
                name: Scaler(each["kind"], tuple(each["centre"]), tuple(each["scale"]))
                for name, each in written.items()
            }
        )


def _centre_and_scale(kind: str, name: str, seen: Summary) -> tuple[float, float]:
    if not seen.count:
        raise InputError(
            f'"{name}" has no number in all the events that were scanned: scan more, leave it out, '
            "or do not scale its group"
        )
    if seen.low == seen.high:
        # Without the rounding of the mean, which the deviation would be made of.
        centre, scale = seen.low, 1.0
    elif kind == "standard":
        centre, scale = seen.mean, seen.std
    elif kind == "minmax":
        centre, scale = seen.low, seen.high - seen.low
    else:
        centre, scale = seen.quantile(0.5), seen.quantile(0.75) - seen.quantile(0.25) or 1.0
    if not _usable(centre, scale):
        raise InputError(
            f'"{name}" has numbers from {seen.low:g} to {seen.high:g}, which a float32 cannot '
            "scale: bring them to another unit, or take the logarithm, in an expression"
        )
    return centre, scale


def _usable(centre: float, scale: float) -> bool:
    """Tell whether tensors of float32 can be scaled so; NaN cannot be, either."""
    return abs(centre) <= _LARGEST and _SMALLEST <= abs(scale) <= _LARGEST
