"""Templates of a workspace: the way back, to rebin, blind or prune what was made elsewhere.

A workspace knows the yields one standard deviation up and down, but not what became of them: a
systematic with a normsys and a histosys is one template again, and a lone normsys, which has no
shape, stays a `Norm`.  What has no bins (names, free factors, settings of parameters) goes into the
`Choices`, so that `data.templates.build.build` of both gives a workspace of the same model: equal
at the nominal point and where any one parameter is one standard deviation off.  Between those
points it is the same if the shapes had the yield of the nominal, as `build` and cabinetry write
them; otherwise a part of the yield goes from the one interpolation to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.data.templates.cells import place
from hepdask_ml.data.templates.choices import (
    FACTORS,
    Choices,
    Factor,
    Norm,
    Rule,
    Statistics,
    Treatment,
)
from hepdask_ml.data.templates.collect import Template, Templates, Variation, known
from hepdask_ml.data.templates.histograms import made
from hepdask_ml.errors import InputError, words

if TYPE_CHECKING:
    from hepdask_ml.data.templates.histograms import Histogram

    Modifiers = dict[tuple[str, str], Any]


def from_workspace(
    workspace: Mapping[str, Any],
    *,
    measurement: str | None = None,
    edges: Mapping[str, Iterable[float]] | None = None,
) -> tuple[Templates, Choices]:
    """Take a workspace apart.

    Parameters
    ----------
    workspace : dict
        HistFactory JSON.
    measurement : str, optional
        Which of its measurements; the first one if not given.
    edges : mapping, optional
        Ends of the bins by channel, which a workspace does not hold; 0, 1, 2 ... where not given.

    Returns
    -------
    templates, choices
        For `hepdask_ml.data.templates.build.build`.

    Raises
    ------
    InputError
        If it is no workspace, or a sample has both a staterror and a shapesys, which one set of
        variances cannot hold.
    """
    try:
        taken = _Taken(edges or {})
        for channel in workspace["channels"]:
            taken.channel(channel)
        data = {each["name"]: each["data"] for each in workspace["observations"]}
        settings = _measurement(workspace["measurements"], measurement)
        config = settings["config"]
        parameters = {
            each["name"]: {key: value for key, value in each.items() if key != "name"}
            for each in config.get("parameters", [])
        }
        return taken.templates(data), Choices(
            poi=config["poi"] or "",
            measurement=settings["name"],
            rules=tuple(taken.rules),
            statistics=tuple(taken.statistics),
            factors=tuple(taken.factors),
            norms=tuple(taken.norms),
            parameters=parameters,
        )
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(
            f"this is no workspace ({words(error)}): give HistFactory JSON that pyhf reads"
        ) from None


def _measurement(measurements: list[Any], name: str | None) -> Any:
    if name is None:
        return measurements[0]
    names = [each["name"] for each in measurements]
    known(name, names, "measurement", "the workspace")
    return measurements[names.index(name)]


class _Taken:
    """What was taken out of a workspace so far."""

    def __init__(self, edges: Mapping[str, Iterable[float]]) -> None:
        self.edges = {name: [float(edge) for edge in ends] for name, ends in edges.items()}
        self.channels: dict[str, dict[str, Template]] = {}
        self.rules: list[Rule] = []
        self.statistics: list[Statistics] = []
        self.factors: list[Factor] = []
        self.norms: list[Norm] = []

    def channel(self, record: Mapping[str, Any]) -> None:
        """Take the samples of a channel."""
        there = self.channels.setdefault(record["name"], {})
        for sample in record["samples"]:
            there[sample["name"]] = self._template(record["name"], sample)

    def templates(self, data: Mapping[str, Any]) -> Templates:
        """Give all templates, with the data."""
        for name in self.edges:
            known(name, list(self.channels), "channel", "edges")
        observed = {
            name: self._histogram(data[name], data[name], name, f'the data of channel "{name}"')
            for name in self.channels
            if name in data
        }
        return Templates(self.channels, observed)

    def _histogram(self, values: Any, variances: Any, channel: str, where: str) -> Histogram:
        return made(values, variances, self.edges.get(channel), where)

    def _template(self, channel: str, sample: Mapping[str, Any]) -> Template:
        process = sample["name"]
        modifiers: Modifiers = {
            (each["type"], each["name"]): each.get("data") for each in sample["modifiers"]
        }
        here: dict[str, Any] = {"processes": (process,), "channels": (channel,)}
        where = place(channel, process)
        variances = self._variances(modifiers, here, where)
        nominal = self._histogram(sample["data"], variances, channel, where)
        for kind, name in modifiers:
            if kind in FACTORS:
                self.factors.append(Factor(name=name, kind=kind, **here))
        for (kind, name), data in modifiers.items():
            if kind == "normsys" and ("histosys", name) not in modifiers:
                self.norms.append(Norm(name=name, up=data["hi"], down=data["lo"], **here))
        variations = {
            name: self._variation(modifiers, name, nominal, (channel, process))
            for kind, name in modifiers
            if kind == "histosys"
        }
        return Template(nominal, variations)

    def _variances(self, modifiers: Modifiers, here: Mapping[str, Any], where: str) -> Any:
        found = [key for key in modifiers if key[0] in ("staterror", "shapesys")]
        if not found:
            return None
        if len(found) > 1:
            names = " and ".join(f'the {kind} "{name}"' for kind, name in found)
            raise InputError(
                f"{where} has {names}, which one set of variances cannot hold: take one out"
            )
        kind, name = found[0]
        pattern = name.replace("{", "{{").replace("}", "}}")
        self.statistics.append(Statistics(kind=kind, name=pattern, **here))
        return np.square(np.asarray(modifiers[found[0]], np.float64))

    def _variation(
        self, modifiers: Modifiers, name: str, nominal: Histogram, at: tuple[str, str]
    ) -> Variation:
        channel, process = at
        shapes = modifiers["histosys", name]
        factors = modifiers.get(("normsys", name))
        if factors is None:
            factors = {"lo": 1.0, "hi": 1.0}
            self.rules.append(
                Rule(
                    treatment=Treatment(form="histosys"),
                    systematics=(name,),
                    processes=(process,),
                    channels=(channel,),
                )
            )

        def side(key: str) -> Histogram:
            values = factors[key] * np.asarray(shapes[f"{key}_data"], np.float64)
            return made(values, None, nominal.edges, place(channel, process, name))

        return Variation(side("hi"), side("lo"))
