"""What is decided when a workspace is made of templates; every default is stated here.

Nothing is decided by what the templates look like: a threshold, a smoothing, a replacement happens
where it was chosen, and leaves an entry in the report.  A `Treatment` says how a variation becomes
modifiers, a `Rule` gives some of them another treatment, a `Statistics` says what becomes of the
number of simulated events.  Where several rules fit, the first one counts.  The records may be
written as mappings, in Python as in YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from hepdask_ml.config import one_of, settle
from hepdask_ml.errors import InputError

FORMS = ("split", "histosys", "normsys")
SYMMETRIES = ("none", "mirror", "mirror-parts", "average")
SMOOTHINGS = ("none", "353QH")
STATISTICS = ("staterror", "shapesys", "none")
FACTORS = ("normfactor", "lumi", "shapefactor")
OBSERVED = ("data", "asimov")


def _not_negative(value: float) -> str | None:
    return None if value >= 0 else "it must be zero or more"


def _positive(value: float) -> str | None:
    return None if value > 0 else "it must be positive"


def _pair(value: tuple[float, ...]) -> str | None:
    fine = len(value) == 2 and value[0] < value[1]
    return None if fine else "it must be a lower and an upper value"


def _pattern(*names: str) -> Any:
    """Make a rule that refuses text with other names in braces than these."""

    def refuse(value: str) -> str | None:
        try:
            found = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
        except ValueError:
            found = {""}
        if value and found <= set(names):
            return None
        return f"it may hold {', '.join('{' + name + '}' for name in names)} and plain text"

    return refuse


_ONE_NAME: dict[str, Any] = {"text": lambda text: (text,), "form": "one text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """How the variations of a systematic become modifiers.

    Attributes
    ----------
    form : {"split", "histosys", "normsys"}
        ``split`` makes a normsys of the change in yield and a histosys of the change in shape, with
        one parameter for both, as cabinetry's *NormPlusShape* does; one bin has a normsys only.
        ``histosys`` keeps the templates as they are in one modifier.  ``normsys`` keeps the change
        in yield, and drops the shape.
    symmetrise : {"none", "mirror", "mirror-parts", "average"}
        ``none`` takes both sides as they are, and refuses one side without the other.  ``mirror``
        gives a single side its image about the nominal, 2 nominal - up.  ``mirror-parts`` does so
        for yield and shape, each for itself, as cabinetry's *Symmetrize* does.  ``average``
        replaces both sides by nominal +- (up - down) / 2, and mirrors a single one.
    smooth : {"none", "353QH"}
        Smooths the ratio of each side to the nominal and keeps its yield (`smoothing.smoothed`).
    prune_norm : float or None
        Leaves a normsys out if it changes the yield by this fraction at most, up and down; none is
        left out if None, and with 0 those that do nothing.
    prune_shape : float or None
        Leaves a histosys out if it changes no bin by more than this fraction of the nominal.
    name : str
        Name of the modifier and its parameter; ``{systematic}``, ``{channel}`` and ``{process}``
        are filled in, so that ``"{systematic}_{channel}"`` gives each channel its own.
    """

    form: str = field(default="split", metadata={"rule": one_of(*FORMS)})
    symmetrise: str = field(default="none", metadata={"rule": one_of(*SYMMETRIES)})
    smooth: str = field(default="none", metadata={"rule": one_of(*SMOOTHINGS)})
    prune_norm: float | None = field(default=None, metadata={"rule": _not_negative})
    prune_shape: float | None = field(default=None, metadata={"rule": _not_negative})
    name: str = field(
        default="{systematic}", metadata={"rule": _pattern("systematic", "channel", "process")}
    )

    def __post_init__(self) -> None:
        settle(self)
        if self.form == "histosys" and self.prune_norm is not None:
            raise InputError(
                f"prune_norm is {self.prune_norm:g}, but the form histosys has no normsys to "
                "prune: leave it out, or split"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Another treatment for some variations; an empty list means all."""

    treatment: Treatment
    systematics: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    processes: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    channels: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What becomes of the variances of the nominal templates.

    Attributes
    ----------
    kind : {"staterror", "shapesys", "none"}
        ``staterror`` gives each bin of a channel one parameter, with a normal constraint, for all
        processes together; ``shapesys`` one for each process, with a Poisson constraint.
    threshold : float
        Relative uncertainty of a bin below which it gets none: of all processes together for a
        staterror (as in ROOT's HistFactory), of the process for a shapesys.
    name : str
        Name of the modifier, with ``{channel}`` and ``{process}`` filled in; if empty it is
        ``staterror_{channel}`` or ``shapesys_{channel}_{process}``.
    processes, channels : tuple of str
        Which; all if empty.
    """

    kind: str = field(default="staterror", metadata={"rule": one_of(*STATISTICS)})
    threshold: float = field(default=0.0, metadata={"rule": _not_negative})
    name: str = ""
    processes: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    channels: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)

    def __post_init__(self) -> None:
        settle(self)
        refusal = _pattern("channel", "process")(self.name) if self.name else None
        if refusal:
            raise InputError(f'name is "{self.name}": {refusal}')

    @property
    def pattern(self) -> str:
        """Name of the modifier, with what is to be filled in."""
        both = "shapesys_{channel}_{process}"
        return self.name or (both if self.kind == "shapesys" else "staterror_{channel}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A free parameter that scales processes.

    Attributes
    ----------
    name : str
        Of the parameter.
    processes, channels : tuple of str
        What it scales; all if empty.
    kind : {"normfactor", "lumi", "shapefactor"}
        A ``lumi`` needs inits, bounds, auxdata and sigmas in `Choices.parameters`.
    init : float or None
        Where fits begin; 1 if None.
    bounds : tuple of float or None
        Lowest and highest value; 0 and 10 if None.
    """

    name: str
    processes: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    channels: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    kind: str = field(default="normfactor", metadata={"rule": one_of(*FACTORS)})
    init: float | None = None
    bounds: tuple[float, ...] | None = field(default=None, metadata={"rule": _pair})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """An uncertainty of the yield that is known without a template.

    Attributes
    ----------
    name : str
        Of the parameter.
    up, down : float
        Factors of the yield, such as 1.1 and 0.9.
    processes, channels : tuple of str
        What it concerns; all if empty.
    """

    name: str
    up: float = field(metadata={"rule": _positive})
    down: float = field(metadata={"rule": _positive})
    processes: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    channels: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """All that is decided on the way from templates to a workspace.

    Attributes
    ----------
    signal : tuple of str
        Processes that the parameter of interest scales.
    poi : str
        The parameter of interest; empty for a workspace without one.
    measurement : str
        Name of the measurement.
    observed : {"data", "asimov"}
        Take what was observed, or what is expected.
    asimov_poi : float
        Parameter of interest of what is expected: 0 is background only.
    blind : mapping
        Channel to true, or to the lower and the upper end of a range of its variable: data of bins
        that it touches are replaced by what is expected.
    rebin : mapping
        Channel to the number of bins that become one, or to the edges that stay.
    floor : float or None
        Expected sums of weights below it are set to it, nominal and varied; none if None.
    treatment : Treatment
        Of all variations that no rule names.
    rules : tuple of Rule
        Other treatments; the first that fits counts.
    statistics : tuple of Statistics
        The first that fits counts; a process that none fits has no such uncertainty.
    factors : tuple of Factor
        Free parameters beside the parameter of interest.
    norms : tuple of Norm
        Uncertainties of yields without templates.
    parameters : mapping
        Parameter to what the measurement says of it, as pyhf has it: ``inits``, ``bounds``,
        ``fixed``, ``auxdata``, ``sigmas``, ``factors``.
    """

    signal: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    poi: str = "mu"
    measurement: str = "measurement"
    observed: str = field(default="data", metadata={"rule": one_of(*OBSERVED)})
    asimov_poi: float = 0.0
    blind: Mapping[str, Any] = field(default_factory=dict)
    rebin: Mapping[str, Any] = field(default_factory=dict)
    floor: float | None = field(default=None, metadata={"rule": _positive})
    treatment: Treatment = field(default_factory=Treatment)
    rules: tuple[Rule, ...] = ()
    statistics: tuple[Statistics, ...] = (Statistics(),)
    factors: tuple[Factor, ...] = ()
    norms: tuple[Norm, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self)


def fits(rule: Rule | Statistics | Factor | Norm, channel: str, process: str) -> bool:
    """Tell whether a record concerns a process in a channel."""
    return (not rule.channels or channel in rule.channels) and (
        not rule.processes or process in rule.processes
    )


def treatment_of(choices: Choices, channel: str, process: str, systematic: str) -> Treatment:
    """Give the treatment of a variation."""
    for rule in choices.rules:
        named = not rule.systematics or systematic in rule.systematics
        if named and fits(rule, channel, process):
            return rule.treatment
    return choices.treatment
